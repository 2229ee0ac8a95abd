"""LoRA adapters on llama.cpp: the same answers as PEFT gives, one server for a family, identities, refusals."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from shard_eval import engine, lora, score
from shard_eval.errors import DataError, UsageError
from shard_eval.systems import Decoding, resolve

gguf = pytest.importorskip("gguf")

QUESTIONS = ["What is rain?", "My knee hurts after running.", "Name three colours.", "How do I open a bank account?"]
SHAPES = {"self_attn.q_proj": (576, 576), "self_attn.k_proj": (192, 576), "mlp.down_proj": (576, 1536)}
PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "init_lora_weights": False}


def write_tensors(path: Path, tensors: dict[str, np.ndarray], dtype: str) -> None:
    """Write a safetensors file; numpy has no bfloat16, whose bits are the upper half of a float32."""
    header, data = {}, b""
    for name, values in tensors.items():
        stored = (
            (values.view(np.uint32) >> 16).astype("<u2")
            if dtype == "BF16"
            else values.astype("<f4" if dtype == "F32" else "<f2")
        )
        offsets = [len(data), len(data) + stored.nbytes]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": offsets}
        data += stored.tobytes()
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def adapter(folder: Path, seed: int = 0, dtype: str = "F32", extra: str = "", **settings: object) -> Path:
    """A folder as PEFT saves one for SmolLM2, with random matrices of values that every type can hold."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(30):
        for module, (rows, columns) in SHAPES.items():
            for kind, shape in (("A", (4, columns)), ("B", (rows, 4))):
                values = (rng.integers(-3, 4, shape) * 0.03125).astype(np.float32)
                tensors[f"base_model.model.model.layers.{layer}.{module}.lora_{kind}.weight"] = values
    if extra:
        tensors[extra] = np.ones((4, 576), dtype=np.float32)
    folder.mkdir(parents=True)
    write_tensors(folder / "adapter_model.safetensors", tensors, dtype)
    (folder / "adapter_config.json").write_text(json.dumps(PLAIN | {"base_model_name_or_path": "x"} | settings))
    return folder


def log_probabilities(server: engine.Server, tokens: list[int], file: Path | None) -> np.ndarray:
    """Of the next token, over the whole vocabulary."""
    body = {"prompt": tokens, "n_predict": 1, "n_probs": 49152, "temperature": 0, "cache_prompt": False}
    reply = server.post("/completion", body | {"lora": server.scales(file)})
    found = np.full(49152, np.nan)
    for entry in reply["completion_probabilities"][0]["top_logprobs"]:
        found[entry["id"]] = entry["logprob"]
    assert np.isfinite(found).all()
    return found


def ask(adapter: str = "", **arguments: object) -> tuple[str, object]:
    """Ask through Inspect; gives the text and the server that answered."""
    from inspect_ai.model import GenerateConfig, get_model

    model = get_model("llamacpp/embedded", **({"adapter": adapter} if adapter else {}), **arguments)
    output = asyncio.run(model.generate("What is rain?", config=GenerateConfig(max_tokens=24, temperature=0.0)))
    return output.completion, model.api.server


@pytest.mark.slow
def test_llama_cpp_and_peft_give_nearly_the_same_log_probabilities(tmp_path, tmp_path_factory):
    """Nearly: the two compute the quantised base itself with different rounding, so that difference is the measure."""
    torch = pytest.importorskip("torch")
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    from shard_eval.packaged import SMOLLM2, obtain
    from shard_train.convert import kept

    checkpoint = kept(obtain(SMOLLM2)[0])
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
    made = get_peft_model(model, config)
    torch.manual_seed(1)
    for name, matrix in made.named_parameters():
        if "lora_" in name:  # strong on q and k, whose rows llama.cpp keeps in another order
            torch.nn.init.normal_(matrix, std=0.1 if "q_proj" in name or "k_proj" in name else 0.03)
    made.save_pretrained(tmp_path / "adapter")
    adapted = PeftModel.from_pretrained(made.unload(), str(tmp_path / "adapter")).eval()

    file = lora.adapter_gguf(tmp_path / "adapter", engine.gguf_path("embedded"))
    server = engine.serve(engine.gguf_path("embedded"), slots=1, adapters=[file])
    noise, same, other = [], [], []
    for question in QUESTIONS:
        tokens = engine.tokenize("embedded", engine.render("embedded", [{"role": "user", "content": question}]))
        with torch.no_grad():
            with_it = torch.log_softmax(adapted(torch.tensor([tokens])).logits[0, -1], -1).numpy()
            with adapted.disable_adapter():
                without = torch.log_softmax(adapted(torch.tensor([tokens])).logits[0, -1], -1).numpy()
        base, served = (log_probabilities(server, tokens, f) for f in (None, file))
        noise.append(divergence(without, base))
        same.append(divergence(with_it, served))
        other.append(divergence(with_it, base))
    assert np.mean(same) < 2 * np.mean(noise), (noise, same, other)
    assert np.mean(other) > 10 * np.mean(noise), (noise, same, other)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Kullback-Leibler divergence between two vectors of log-probabilities."""
    return float(np.sum(np.exp(p) * (p - q)))


@pytest.mark.slow
def test_the_base_is_untouched_by_adapters_that_are_loaded(tmp_path):
    base = engine.gguf_path("embedded")
    alone = engine.serve(base, slots=1, context=512)
    file = lora.adapter_gguf(adapter(tmp_path / "a"), base)
    family = engine.serve(base, slots=1, context=512, adapters=[file])
    assert alone.url != family.url and file not in alone.adapters
    for question in QUESTIONS[:2]:
        tokens = engine.tokenize("embedded", question)
        expected = log_probabilities(alone, tokens, None)
        assert np.array_equal(log_probabilities(family, tokens, None), expected)
        assert np.abs(log_probabilities(family, tokens, file) - expected).max() > 0.1
        assert np.array_equal(log_probabilities(family, tokens, None), expected)  # nothing stays in the slot


@pytest.mark.slow
def test_one_server_serves_a_family_that_was_announced(tmp_path):
    folders = [adapter(tmp_path / name, seed) for seed, name in enumerate(("first", "second"), start=10)]
    engine.announce("embedded", folders)
    own = {"slots": 2, "context": 500}  # what no other test of this process asks for: its server would be found
    texts, servers = zip(*(ask(str(a) if a else "", **own) for a in ("", *folders, "")), strict=True)
    assert len(set(servers)) == 1 and len(set(texts)) == 3 and texts[0] == texts[-1]
    assert [ask(str(f), **own)[0] for f in reversed(folders)] == [texts[2], texts[1]]


@pytest.mark.slow
def test_an_adapter_nobody_announced_gets_a_further_server_and_the_first_one_goes_on(tmp_path):
    own = {"slots": 3, "context": 500}
    text, first = ask(**own)
    changed, second = ask(str(adapter(tmp_path / "late", 20)), **own)
    assert first != second and set(first.adapters) < set(second.adapters) and changed != text
    assert ask(**own) == (text, first)


@pytest.mark.slow
def test_the_cache_knows_the_adapter_and_the_bases_key_is_as_before(tmp_path):
    from inspect_ai.model import get_model

    folder = adapter(tmp_path / "a")
    base, adapted = resolve("embedded"), resolve("embedded", adapter=str(folder))
    assert base.open().api.base_url == f"llamacpp:{base.weights[:16]}"
    assert base.model_args == {"weights_sha": base.weights[:16]}
    url = adapted.open().api.base_url
    assert url.startswith(f"llamacpp:{base.weights[:16]}+")
    assert get_model("llamacpp/embedded", adapter=str(folder)).api.base_url == "llamacpp:" + url[url.index("+") :]


@pytest.mark.slow
def test_base_and_adapter_are_scored_in_one_engine(tmp_path):
    def answers(**options: str) -> tuple[dict, list[str]]:
        system = resolve("embedded", decoding=Decoding(max_tokens=16), **options)
        (plan,) = score.plans(system, ["mini"], score.Judging("embedded"), limit=2)
        run = score.run(plan, str(tmp_path / "results"), Console(quiet=True))
        return json.loads((tmp_path / "results" / plan.folder / "manifest.json").read_text())["system"], [
            row.chars for row in run.rows
        ]

    base, texts = answers()
    adapted, others = answers(adapter=str(adapter(tmp_path / "a")))
    assert (adapted["engine"], adapted["dtype"]) == (base["engine"], base["dtype"]) == ("llamacpp", "Q4_1")
    assert adapted["base_sha256"] == base["weights_sha256"] and texts != others


def test_an_adapter_is_known_by_its_content_wherever_it_lies(tmp_path):
    folder = adapter(tmp_path / "here" / "sft")
    shutil.copytree(folder, tmp_path / "there" / "sft")
    config = tmp_path / "there" / "sft" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "/elsewhere"}))
    here, there = (resolve("embedded", adapter=str(tmp_path / place / "sft")) for place in ("here", "there"))
    assert here == there and here.label == "sft" and here.base == resolve("embedded").weights
    assert resolve("embedded", adapter=str(adapter(tmp_path / "other" / "sft", 1))).id != here.id
    assert resolve("embedded").id != here.id
    by_path = resolve(str(engine.gguf_path("embedded")), adapter=str(folder))
    assert (by_path.weights, by_path.base, by_path.dtype) == (here.weights, here.base, "Q4_1")


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_the_stored_type_makes_no_difference_to_values_it_can_hold(tmp_path, dtype):
    base = engine.gguf_path("embedded")
    files = [lora.adapter_gguf(adapter(tmp_path / kind, dtype=kind), base) for kind in ("F32", dtype)]
    assert files[0] != files[1] and files[0].read_bytes() == files[1].read_bytes()


def test_rank_stabilised_scaling_is_a_larger_alpha(tmp_path):
    base = engine.gguf_path("embedded")
    plain = lora.adapter_gguf(adapter(tmp_path / "plain", lora_alpha=8), base)  # 8 / 4
    stabilised = lora.adapter_gguf(adapter(tmp_path / "rs", lora_alpha=4, use_rslora=True), base)  # 4 / sqrt(4)
    assert plain != stabilised and plain.read_bytes() == stabilised.read_bytes()


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"bias": "lora_only"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 2}},
        {"alpha_pattern": {"q_proj": 2}},
        {"init_lora_weights": "pissa"},
        {"peft_type": "LOHA"},
        {"lora_alpha": 0},
        {"something_new": True},
    ],
)
def test_what_llama_cpp_cannot_compute_is_refused_by_name(tmp_path, settings):
    (name,) = settings
    with pytest.raises(UsageError, match=f"{name} = "):
        resolve("embedded", adapter=str(adapter(tmp_path / "a", **settings)))


@pytest.mark.parametrize(
    "extra",
    [
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.lm_head.lora_A.weight",  # tied to the embedding in this base
        "base_model.model.model.layers.99.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.bias",
    ],
)
def test_matrices_the_base_has_no_place_for_are_refused(tmp_path, extra):
    with pytest.raises(UsageError, match="cannot adapt"):
        lora.adapter_gguf(adapter(tmp_path / "a", extra=extra), engine.gguf_path("embedded"))


def test_an_adapter_of_another_model_does_not_fit(tmp_path):
    orphan = "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight"  # no lora_B
    with pytest.raises(UsageError, match="does not fit"):
        lora.adapter_gguf(adapter(tmp_path / "a", extra=orphan), engine.gguf_path("embedded"))


def test_bases_that_cannot_be_used_are_named(tmp_path):
    folder = adapter(tmp_path / "a")
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "gpt2")
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_array("names", ["a", "b"])
    writer.add_array("numbers", [1, 2])
    writer.add_tensor("token_embd.weight", np.zeros((8, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert lora.read_base(tmp_path / "other.gguf").shapes == {"token_embd.weight": (8, 4)}
    with pytest.raises(UsageError, match="architecture 'gpt2'"):
        lora.adapter_gguf(folder, tmp_path / "other.gguf")
    for content in (b"", b"text" * 100, b"GGUF" + bytes(1000), b"GGUF" + b"\xff" * 1000):
        (tmp_path / "broken.gguf").write_bytes(content)
        with pytest.raises(DataError, match=r"broken\.gguf is"):
            lora.adapter_gguf(folder, tmp_path / "broken.gguf")


def test_damaged_or_unknown_matrices_are_named(tmp_path):
    folder = adapter(tmp_path / "a")
    file = folder / "adapter_model.safetensors"
    content = file.read_bytes()
    for damaged in (content[:4], content[: len(content) // 2], content.replace(b'"F32"', b'"F16"', 1)):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="is damaged"):
            resolve("embedded", adapter=str(folder))
    file.write_bytes(content.replace(b'"F32"', b'"I32"', 1))
    with pytest.raises(UsageError, match="type I32"):
        resolve("embedded", adapter=str(folder))


def test_folders_and_models_that_take_no_adapter_are_refused(tmp_path):
    with pytest.raises(UsageError, match="is no adapter"):
        resolve("embedded", adapter=str(tmp_path))
    with pytest.raises(UsageError, match="uses no model"):
        resolve("always_refuse", adapter=str(adapter(tmp_path / "a")))
