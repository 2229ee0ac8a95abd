"""The provider `vllm_served` against a server that runs: llama.cpp's, which speaks the protocol and starts at once.

What only vLLM itself can show is in test_vllm.py.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from inspect_ai.log import read_eval_log
from rich.console import Console
from safetensors.numpy import load_file, save_file

from shard_eval import engine, families, lora, score, vllm_engine
from shard_eval.cli import main
from shard_eval.cli_score import merging
from shard_eval.errors import UsageError
from shard_eval.systems import Decoding, resolve

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def server() -> engine.Server:
    return engine.serve(engine.gguf_path("embedded"), slots=2, context=512)


def at(server: engine.Server) -> dict[str, str]:
    return {"base_url": server.url, "api_key": server.key}


def test_a_server_that_runs_is_asked_by_the_name_it_knows(server, tmp_path):
    with pytest.raises(UsageError, match=r"serves no 'nobody'\. It serves .+\.") as raised:
        resolve("vllm/nobody", model_args=at(server))
    name = str(raised.value).split("It serves ")[1].rstrip(".")
    system = resolve(f"vllm/{name}", decoding=Decoding(max_tokens=8), model_args=at(server), label="mine")
    assert (system.engine, system.weights, system.label) == ("vllm", "", "mine")  # nobody can see its weights
    assert server.url not in json.dumps([system.manifest, system.model_args])
    (plan,) = score.plans(system, ["mini"], score.Judging("rules"), limit=2)
    found = score.run(plan, str(tmp_path), QUIET)
    assert len(found.rows) == 2 and found.usage["output_tokens"] > 0
    # Another port the next time is the same system, and what is finished is not asked again.
    moved = engine.serve(engine.gguf_path("embedded"), slots=1, context=512)
    again = resolve(f"vllm/{name}", decoding=Decoding(max_tokens=8), model_args=at(moved), label="mine")
    assert again.id == system.id and moved.url != server.url
    logs = sorted((tmp_path / plan.folder / "logs").glob("*.eval"))
    (plan,) = score.plans(again, ["mini"], score.Judging("rules"), limit=2)
    assert score.run(plan, str(tmp_path), QUIET).rows == found.rows
    assert sorted((tmp_path / plan.folder / "logs").glob("*.eval")) == logs
    (plan,) = score.plans(again, ["mini"], score.Judging("rules"), limit=3)
    assert len(score.run(plan, str(tmp_path), QUIET).rows) == 3  # the new place answers


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"api_key": "wrong"}, "refuses the key. Set VLLM_API_KEY"),
        ({"base_url": "http://127.0.0.1:9/v1"}, "no vLLM server answers at http://127.0.0.1:9/v1"),
        ({"max_model_len": 99}, "-M max_model_len has no effect on a vLLM server that runs already"),
    ],
)
def test_what_is_wrong_with_a_server_is_said_before_anything_is_asked(server, change, says):
    with pytest.raises(UsageError, match=says):
        resolve("vllm/x", model_args=at(server) | change)


@pytest.fixture
def stranger() -> Iterator[int]:
    """The port of a program that is no model server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *args: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running.server_port
    running.shutdown()
    running.server_close()


def test_a_port_that_another_program_has_is_told(stranger):
    with pytest.raises(UsageError, match=f"127.0.0.1:{stranger}/v1 is no vLLM server .* another program has the port"):
        resolve("vllm/x", model_args={"port": stranger})


def test_an_address_is_an_argument_or_in_the_environment(monkeypatch):
    monkeypatch.setenv("VLLM_BASE_URL", "http://there:1/v1/")
    assert vllm_engine.address({}) == "http://there:1/v1"
    assert vllm_engine.address({"port": 2}) == "http://127.0.0.1:2/v1"
    assert vllm_engine.address({"base_url": "http://here:3/v1"}) == "http://here:3/v1"
    monkeypatch.delenv("VLLM_BASE_URL")
    assert vllm_engine.address({}) is None


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "~/a/b"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(UsageError, match="there is no folder"):
        resolve(f"vllm/{name}")


# --- adapters ----------------------------------------------------------------------------------------------------


def checkpoint(folder: Path, width: int = 8, kind: str = "qwen2") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    save_file({"model.layers.0.mlp.up_proj.weight": np.zeros((16, width), np.float32)}, folder / "model.safetensors")
    return folder


def adapter(folder: Path, width: int = 8, rank: int = 4, fill: float = 1.0, **settings: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    shapes = {"A": (rank, width), "B": (16, rank)}
    tensors = {name.format(kind): np.full(shape, fill, np.float32) for kind, shape in shapes.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    plain = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "base_model_name_or_path": "elsewhere"}
    (folder / "adapter_config.json").write_text(json.dumps(plain | settings))
    return folder


@pytest.fixture
def base(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VLLM_BASE_URL", raising=False)
    return checkpoint(tmp_path / "base")


def test_base_and_adapters_are_known_by_content_and_share_one_engine(base, tmp_path):
    one, two = adapter(tmp_path / "run" / "checkpoint-2"), adapter(tmp_path / "run" / "checkpoint-10", rank=12)
    alone = resolve(f"vllm/{base}")
    first, second = (resolve(f"vllm/{base}", adapter=str(a)) for a in (one, two))
    assert alone.shares_engine(first) and first.shares_engine(second)
    assert vllm_engine._places[alone.model_args["base"]].rank == 12 and vllm_engine.cap(12) == 16
    assert first.base == alone.weights and len({alone.id, first.id, second.id}) == 3
    assert resolve(f"vllm/{base}:{one}").id == first.id  # as Inspect writes it
    assert families.of_system(first) == {"Alibaba Qwen"}
    adapter(one, fill=2.0)
    again = resolve(f"vllm/{base}", adapter=str(one))
    assert again.id != first.id and again.model_args["adapter"] != first.model_args["adapter"]
    moved = shutil.copytree(one, tmp_path / "elsewhere" / "checkpoint-2")
    assert resolve(f"vllm/{base}", adapter=str(moved)).id == again.id
    save_file({"x": np.ones(1, np.float32)}, base / "model.safetensors")
    assert resolve(f"vllm/{base}").model_args["base"] != alone.model_args["base"]


def test_an_answer_must_leave_room_for_its_prompt(base):
    with pytest.raises(UsageError, match="answers of up to 512 tokens leave no room for a prompt in the 256 tokens"):
        resolve(f"vllm/{base}", model_args={"max_model_len": 256})
    (base / "config.json").write_text(json.dumps({"model_type": "qwen2", "max_position_embeddings": 512}))
    with pytest.raises(UsageError, match="512 tokens of context of "):
        resolve(f"vllm/{base}")
    (base / "config.json").unlink()
    with pytest.raises(UsageError, match=r"holds no config\.json that can be read"):
        resolve(f"vllm/{base}")


def test_arguments_that_can_change_an_answer_are_part_of_the_system(base):
    plain = resolve(f"vllm/{base}")
    fast = resolve(f"vllm/{base}", model_args={"enforce_eager": True, "max_model_len": 1024})
    other = resolve(f"vllm/{base}", model_args={"quantization": "fp8"})
    assert plain.id == fast.id != other.id
    assert other.manifest["settings"] == {"quantization": "fp8"} and "settings" not in plain.manifest
    assert fast.model_args == plain.model_args  # so that a run goes on with more context where it stopped


def test_an_adapter_of_another_base_is_refused_on_every_engine(base, tmp_path):
    """Without this vLLM 0.32 takes it, says "success", and answers as the base."""
    other = adapter(tmp_path / "other", width=9)
    for model in (f"vllm/{base}", str(base)):
        with pytest.raises(UsageError, match=r"does not fit the base .*up_proj is 16 x 8 there.*is 4 x 9"):
            resolve(model, adapter=str(other))
    lora.require_fit(adapter(tmp_path / "same"), base)


def test_adapters_that_vllm_cannot_serve_are_merged(base, tmp_path):
    dora = adapter(tmp_path / "dora", use_dora=True)
    merged = resolve(f"vllm/{base}", adapter=str(dora))
    assert merged.model_args["merge"] and merged.manifest["settings"] == {"adapter": "merged"}
    assert not resolve(f"vllm/{base}").shares_engine(merged)
    with pytest.raises(UsageError, match=r"use_dora = True.*--serve merged"):
        resolve(f"vllm/{base}", adapter=str(dora), merge=False)
    embeds = adapter(tmp_path / "embeds")
    tensors = load_file(embeds / "adapter_model.safetensors")
    name = "base_model.model.model.embed_tokens.lora_embedding_A"
    save_file(tensors | {name: np.zeros((4, 99), np.float32)}, embeds / "adapter_model.safetensors")
    assert vllm_engine.must_merge(embeds) == "it changes embeddings"
    huge = adapter(tmp_path / "huge", rank=600)
    assert vllm_engine.must_merge(huge) == "its rank 600 is above 512"
    plain = adapter(tmp_path / "plain")
    beside, inside = (resolve(f"vllm/{base}", adapter=str(plain), merge=m) for m in (None, True))
    assert beside.id != inside.id and "settings" not in beside.manifest


def test_why_a_server_did_not_start_is_the_last_error_that_is_not_about_its_own_end():
    lines = deque(
        [
            "(APIServer pid=1) INFO 11-27 19:30:23 [api.py:1] version 0.32.0",
            "(EngineCore pid=2) ERROR 11-27 19:30:23 [core.py:9] ValueError: No room for 8 GiB of cache.",
            "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
        ]
    )
    assert (
        vllm_engine._why(RuntimeError("exited"), lines) == "vLLM did not start: ValueError: No room for 8 GiB of cache."
    )
    invalid = deque(["p.ValidationError: 1 validation error for C", "  Value error, Unknown method: x [type=value]"])
    assert "error for C: Value error, Unknown method: x" in vllm_engine._why(RuntimeError("exited"), invalid)
    refused = deque(["usage: vllm", "vllm serve: error: argument --api-key: expected one argument"])
    assert vllm_engine._why(RuntimeError("exited"), refused).endswith("--api-key: expected one argument")
    assert vllm_engine._why(RuntimeError("exited with 1\nmore"), deque()) == "vLLM did not start: exited with 1"


def test_on_a_cpu_adapters_are_merged_where_that_is_faster(monkeypatch, capsys):
    monkeypatch.delenv("VLLM_BASE_URL", raising=False)
    monkeypatch.setattr(vllm_engine, "version", lambda name: "0.32.0+cpu")
    most = vllm_engine.MERGE_FROM
    assert merging("vllm/x", {}, "auto", most, {}) is True and "merged" in capsys.readouterr().err
    assert merging("vllm/x", {}, "auto", most - 1, {}) is None
    assert merging("vllm/x", {}, "auto", most, {"port": 8000}) is None  # a server that runs has its weights
    assert merging("vllm/x", {}, "lora", most, {}) is False and merging("vllm/x", {}, "merged", 1, {}) is True
    monkeypatch.setattr(vllm_engine, "version", lambda name: "0.32.0")
    assert merging("vllm/x", {}, "auto", most, {}) is None  # on a GPU
    with pytest.raises(UsageError, match="--serve merged is for vllm/"):
        merging("embedded", {}, "merged", 1, {})


def test_a_base_and_its_adapters_are_one_table_on_any_engine(tmp_path, results):
    from test_lora import adapter as real

    for name in ("checkpoint-10", "checkpoint-2"):
        real(tmp_path / "run" / name, 50 + int(name[11:]))  # content that no other test serves
    options = ["-b", "mini", "--limit", "2", "-j", "rules", "--max-tokens", "8", "--no-attacks", "--log-dir", results]
    line = ["score", "embedded", "--adapters", str(tmp_path / "run" / "checkpoint-*"), *options]
    found = CliRunner().invoke(main, line)
    assert found.exit_code == 0, found.output
    rows = [line.split("│")[1].strip() for line in found.output.splitlines() if line.startswith("│")]
    assert rows == ["SmolLM2-135M-Instruct", "checkpoint-2", "checkpoint-10"]
    folders = [str(tmp_path / "run" / n) for n in ("checkpoint-10", "checkpoint-2")]
    files = {engine.lora_file(Path(folder), engine.gguf_path("embedded")) for folder in folders}
    assert {len(files & set(server.adapters)) for server in engine._servers} - {0} == {2}  # one for both
    listed = CliRunner().invoke(main, ["score", "embedded", "--adapters", *folders, *options, "--json"])
    systems = [run["system"] for run in json.loads(listed.stdout)]
    assert len(systems) == 3
    (log,) = (tmp_path / "results").glob("checkpoint-2-*/*/logs/*.eval")
    texts = [s.output.completion for s in read_eval_log(str(log)).samples or ()]
    assert len(texts) == 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["embedded", "another"], "'another': give one model; adapters on it come behind --adapters"),
        (["embedded", "--adapters", "no/such-*"], "--adapters 'no/such-\\*' matches no folder"),
        (["embedded", "--adapters", "no/such"], "no/such is no adapter"),
        (["embedded", "--adapters", "a", "--adapter", "b"], "--adapter b and --adapters: name all of them behind"),
        (["embedded", "--serve", "merged"], "--serve merged is for vllm/"),
    ],
)
def test_adapters_that_are_not_there(line, says):
    found = CliRunner().invoke(main, ["score", *line, "-j", "rules"])
    assert found.exit_code == 2
    assert re.search(says, found.output)
