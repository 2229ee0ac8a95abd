"""Weights that are trained again in place, under the same name: every engine and every cache must give the new text."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from inspect_ai.log import read_eval_log
from rich.console import Console
from test_lora import adapter

from shard_eval import engine, score
from shard_eval.systems import Decoding, System, resolve

pytestmark = pytest.mark.slow


def said(system: System, root: Path, cache: bool) -> tuple[str, ...]:
    """What a system answers to two prompts, as its log has it."""
    (plan,) = score.plans(system, ["mini"], score.Judging("rules"), limit=2)
    with system.opened(cache) as model:
        found = score.run(plan, str(root), Console(quiet=True), cache=cache, model=model)
    log = read_eval_log(f"{root}/{plan.folder}/logs/{found.log.rsplit('/', 1)[-1]}")
    return tuple(sample.output.completion for sample in log.samples or ())


def require_new_text(resolved: Callable[[], System], retrain: Callable[[], None], root: Path, cache: bool) -> None:
    before = resolved()
    old = said(before, root, cache)
    retrain()
    after = resolved()
    new = said(after, root, cache)
    assert after.id != before.id and after.label == before.label
    assert new != old and len(new) == len(old) == 2
    if cache:  # else an engine may answer a second time otherwise: what it answers beside differs
        assert said(after, root / "again", cache) == new


def other_weights(folder: Path) -> None:
    """The checkpoint with other numbers, in the same files."""
    from safetensors.torch import load_file, save_file

    for file in folder.glob("*.safetensors"):
        save_file({name: t.flip(0).contiguous() for name, t in load_file(file).items()}, file, {"format": "pt"})


@pytest.mark.parametrize("cache", [True, False])
def test_a_checkpoint_folder_on_transformers(place, tmp_path, cache):
    folder = shutil.copytree(place / "base", tmp_path / "model")
    decoding = Decoding(max_tokens=12)
    require_new_text(
        lambda: resolve(str(folder), decoding=decoding), lambda: other_weights(folder), tmp_path / "results", cache
    )


@pytest.mark.parametrize("cache", [True, False])
def test_an_adapter_on_transformers(place, tmp_path, cache):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    def train(seed: int) -> None:
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(place / "base")
        settings = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        get_peft_model(model, settings).save_pretrained(tmp_path / "adapter")

    train(1)
    require_new_text(
        lambda: resolve(str(place / "base"), adapter=str(tmp_path / "adapter"), decoding=Decoding(max_tokens=12)),
        lambda: train(2),
        tmp_path / "results",
        cache,
    )


@pytest.mark.parametrize("cache", [True, False])
def test_a_gguf_file_on_llama_cpp(tmp_path, cache):
    file = Path(shutil.copy(engine.gguf_path("embedded"), tmp_path / "model.Q4_1.gguf"))

    def retrain() -> None:
        content = bytearray(file.read_bytes())
        middle = len(content) // 2
        for place in range(middle, middle + 200_000):  # quantised numbers: any bits are some
            content[place] ^= 0x11
        other = file.with_suffix(".part")
        other.write_bytes(bytes(content))
        other.replace(file)  # the old content stays readable for who has it open

    decoding = Decoding(max_tokens=12)
    # Few slots: a server of its own, that no other test has asked.
    arguments = {"slots": 2, "context": 640}
    require_new_text(
        lambda: resolve(str(file), decoding=decoding, model_args=arguments), retrain, tmp_path / "results", cache
    )


@pytest.mark.parametrize("cache", [True, False])
def test_an_adapter_on_llama_cpp(tmp_path, cache):
    def train(seed: int) -> None:
        shutil.rmtree(tmp_path / "adapter", ignore_errors=True)
        adapter(tmp_path / "adapter", seed)

    train(31)
    require_new_text(
        lambda: resolve("embedded", adapter=str(tmp_path / "adapter"), decoding=Decoding(max_tokens=12)),
        lambda: train(32),
        tmp_path / "results",
        cache,
    )
