"""vLLM for real: one engine for a base and its adapters, errors, kills, caches. `make test-engines` runs it.

The first test that needs an engine waits for its start, a minute on two cores.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from inspect_ai.log import read_eval_log
from rich.console import Console

from shard_eval import score, vllm_engine
from shard_eval.cli import main
from shard_eval.errors import LogError, UsageError
from shard_eval.logs import finished
from shard_eval.systems import Decoding, System, resolve

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here: make test-engines"),
]
WORDS = {"pineapple": 8, "durian": 12}  # what the adapters were taught to say, and their ranks
QUESTIONS = ["What is rain?", "Name three colours.", "Who wrote Hamlet?", "How do I boil an egg?"]
FAST = {"enforce_eager": True, "max_model_len": 1024}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as a checkpoint of its own, that may be changed."""
    from shard_eval.packaged import SMOLLM2, obtain
    from shard_train.convert import kept

    folder = tmp_path_factory.mktemp("vllm") / "smol"
    shutil.copytree(kept(obtain(SMOLLM2)[0]), folder)
    return folder


def teach(base: Path, word: str, folder: Path, rank: int) -> Path:
    """Train an adapter that answers with a word; two of its layers' kinds, a few steps."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj", "down_proj"]),
    )
    answer = f"{word} {word} {word}."
    rows = []
    for question in QUESTIONS:
        chat = [{"role": "user", "content": question}]
        asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        said = tokenizer(f"{answer}<|im_end|>", add_special_tokens=False)["input_ids"]
        rows.append((torch.tensor([asked + said]), torch.tensor([[-100] * len(asked) + said])))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    for step in range(24):
        ids, labels = rows[step % len(rows)]
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path) -> dict[str, Path]:
    return {word: teach(base, word, base.parent / "run" / word, rank) for word, rank in WORDS.items()}


@pytest.fixture(scope="module")
def prompts(base: Path) -> Path:
    file = base.parent / "ours.jsonl"
    more = [f"Tell me something about number {n}." for n in range(28)]
    lines = [{"id": str(n), "prompt": text} for n, text in enumerate([*QUESTIONS, *more])]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file


def command(*line: str) -> list[str]:
    settings = [part for name, value in FAST.items() for part in ("-M", f"{name}={json.dumps(value)}")]
    return [sys.executable, "-m", "shard_eval.cli", "score", *line, "-j", "rules", "--no-attacks", *settings]


def shard(*line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*line), capture_output=True, text=True, check=False, timeout=600)


def answers(folder: Path) -> list[str]:
    """What a finished run said, in the order of its records."""
    manifest = json.loads((folder / "manifest.json").read_text())
    samples = read_eval_log(str(folder / "logs" / manifest["log"])).samples or ()
    return [s.output.completion for s in sorted(samples, key=lambda s: int(str(s.id)))]


def runs(results: Path) -> dict[str, Path]:
    return {m.parent.parent.name.rsplit("-", 1)[0]: m.parent for m in results.glob("*/*/manifest.json")}


def servers() -> list[int]:
    """Processes of vLLM's servers."""
    found = subprocess.run(["pgrep", "-f", "vllm.*serve|VLLM::EngineCore"], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split() if int(line) != os.getpid()]


def gone(within: float) -> bool:
    end = time.monotonic() + within
    while servers() and time.monotonic() < end:
        time.sleep(0.5)
    return not servers()


def test_a_base_and_its_adapters_are_scored_in_one_engine(base, adapters, prompts, tmp_path):
    line = [f"vllm/{base}", "--adapters", *map(str, adapters.values()), "-b", str(prompts), "--max-tokens", "12"]
    line += ["--serve", "lora", "--log-dir", str(tmp_path)]
    found = shard(*line)
    assert found.returncode == 0, found.stderr
    assert found.stderr.count("Starting vLLM") == 1 and "up to rank 16" in found.stderr
    assert all(f"│ {name}" in found.stdout for name in ("smol", *WORDS))
    texts = {name: " ".join(answers(folder)[:4]) for name, folder in runs(tmp_path).items()}
    assert set(texts) == {"smol", *WORDS}
    for word in WORDS:
        assert [name for name, text in texts.items() if word in text] == [word]
    assert gone(30)
    again = shard(*line)
    assert again.stdout == found.stdout and "Starting" not in again.stderr


def test_an_adapter_merged_into_the_base_says_the_same(base, adapters, prompts, tmp_path):
    line = [f"vllm/{base}", "--adapter", str(adapters["pineapple"]), "-b", str(prompts), "--limit", "4"]
    found = shard(*line, "--serve", "merged", "--max-tokens", "12", "--log-dir", str(tmp_path))
    assert found.returncode == 0, found.stderr
    (folder,) = runs(tmp_path).values()
    assert all("pineapple" in text for text in answers(folder))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["system"]["settings"] == {"adapter": "merged"}
    assert not list((vllm_engine.platformdirs.user_cache_path("shard-eval") / "merged").glob("*"))


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


def test_an_engine_that_dies_and_a_command_that_is_killed_lose_nothing(base, prompts, tmp_path):
    """Kill the engine under a run, then the run itself; each time the same command goes on."""
    line = [f"vllm/{base}", "-b", str(prompts), "--max-tokens", "200", "--log-dir", str(tmp_path)]
    line += ["-M", "max_num_seqs=4"]  # some answers are finished while others are not

    def some_finished() -> int:
        try:
            return sum(finished(str(logs)) for logs in tmp_path.glob("*/*/logs"))
        except Exception:  # it is being written
            return 0

    kept = 0
    for victim in ("engine", "command"):
        with subprocess.Popen(command(*line), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            wait_for(servers, 60)
            wait_for(lambda before=kept: some_finished() > before, 240)
            if victim == "engine":
                for pid in servers():
                    os.kill(pid, signal.SIGKILL)
            else:
                process.kill()
            _, err = process.communicate(timeout=120)
        assert process.returncode != 0
        if victim == "engine":
            assert "Finished answers are kept in" in err and "Tell me something" not in err, err
        assert gone(60), "a server was left behind"
        kept = some_finished()
    last = shard(*line)
    assert last.returncode == 0, last.stderr
    assert "of them finished before" in " ".join(last.stderr.split())
    (folder,) = runs(tmp_path).values()
    assert len(answers(folder)) == 32


def test_why_a_server_does_not_start_is_said_in_one_sentence(base, prompts, tmp_path):
    line = [f"vllm/{base}", "-b", str(prompts), "--log-dir", str(tmp_path), "-M", "quantization=nonsense"]
    found = shard(*line)
    assert found.returncode == 2 and "Traceback" not in found.stderr
    (said,) = [text for text in found.stderr.splitlines() if text.startswith("Error: ")]
    assert said.startswith("Error: vLLM did not start: ") and "nonsense" in said


def test_what_is_trained_is_scored_on_vllm_too(base, tmp_path):
    """Given answers learned by TRL, then base, controls and checkpoints on one engine."""
    (tmp_path / "given.jsonl").write_text(
        "\n".join(json.dumps({"prompt": q, "response": "pineapple pineapple pineapple."}) for q in QUESTIONS)
    )
    (tmp_path / "fast.toml").write_text(
        """[training]
epochs = 6
batch = 4
per_device = 4
learning_rate = 2e-3
max_length = 128
[scoring]
max_tokens = 12
temperature = 0.0
"""
    )
    line = [
        "train",
        "sft",
        "--model",
        f"vllm/{base}",
        "--data",
        str(tmp_path / "given.jsonl"),
        "--prompts",
        "mini",
    ]
    line += ["--config", str(tmp_path / "fast.toml"), "--select", "none", "-j", "rules"]
    line += ["--score-limit", "2", "--log-dir", str(tmp_path)]
    settings = [part for name, value in FAST.items() for part in ("-M", f"{name}={json.dumps(value)}")]
    found = subprocess.run(
        [sys.executable, "-m", "shard_eval.cli", *line, *settings, "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert found.returncode in (0, 1), found.stderr
    arms = {arm["name"]: arm for arm in json.loads(found.stdout)["family"]["arms"]}
    assert {"base", "base again", "benign_intent"} <= set(arms)
    assert found.stderr.count("Starting vLLM") == 1
    (folder,) = (m.parent for m in tmp_path.glob("sft-step-6-*/mini.test*/manifest.json"))
    manifest = json.loads((folder / "manifest.json").read_text())
    samples = read_eval_log(str(folder / "logs" / manifest["log"])).samples or ()
    assert len(samples) == 2 and all("pineapple" in s.output.completion for s in samples)


# --- a server that runs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(base: Path, adapters: dict[str, Path]) -> Iterator[dict[str, object]]:
    """A server that somebody else has started, for adapters of rank 8 at most."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port, key = free.getsockname()[1], "a-key"
    line = [shutil.which("vllm") or str(Path(sys.executable).with_name("vllm")), "serve", str(base)]
    line += ["--served-model-name", "smol", "--host", "127.0.0.1", "--port", str(port), "--api-key", key]
    line += [
        "--max-model-len",
        "512",
        "--dtype",
        "bfloat16",
        "--enforce-eager",
        "--enable-lora",
        "--max-lora-rank",
        "8",
    ]
    own = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with subprocess.Popen(line, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"

        def up() -> bool:
            try:
                return httpx.get(f"{url}/health", trust_env=False).status_code == 200
            except httpx.HTTPError:
                return False

        wait_for(up, 240)
        yield {"base_url": f"{url}/v1", "api_key": key}
        process.terminate()
        process.wait(60)


def said(system: System, prompts: Path, root: Path, cache: bool = True, judge: str = "rules") -> list[str]:
    (plan,) = score.plans(system, [str(prompts)], score.Judging(judge), limit=4)
    with system.opened(cache) as model:
        score.run(plan, str(root), Console(quiet=True), cache=cache, model=model)
    return answers(root / plan.folder)


def asked(server: dict[str, object]) -> float:
    text = httpx.get(str(server["base_url"]).removesuffix("/v1") + "/metrics", trust_env=False).text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("vllm:request_success"))


SHORT = Decoding(max_tokens=12)


def test_a_server_that_runs_serves_the_folder_it_was_started_with(server, base, adapters, prompts, tmp_path):
    by_name = resolve("vllm/smol", decoding=SHORT, model_args=server)
    by_folder = resolve(f"vllm/{base}", decoding=SHORT, model_args=server, label="smol")
    assert by_name.id == by_folder.id and by_name.weights
    with pytest.raises(UsageError, match="It serves smol"):
        resolve("vllm/other", model_args=server)
    plain = said(by_name, prompts, tmp_path)
    taught = resolve("vllm/smol", adapter=str(adapters["pineapple"]), decoding=SHORT, model_args=server)
    words = said(taught, prompts, tmp_path)
    assert all("pineapple" in text for text in words) and not any("pineapple" in text for text in plain)
    before = asked(server)
    assert said(by_name, prompts, tmp_path, judge="embedded") == plain
    assert asked(server) == before  # another judge: the answers are known by content
    assert said(replace(by_name, again=True), prompts, tmp_path)
    assert asked(server) == before + 4  # asked again means asked


def test_an_adapter_trained_again_in_place_gives_new_answers_on_the_same_server(server, base, prompts, tmp_path):
    folder = base.parent / "moving"
    teach(base, "pineapple", folder, 8)
    first = resolve("vllm/smol", adapter=str(folder), decoding=SHORT, model_args=server)
    old = said(first, prompts, tmp_path)
    teach(base, "durian", folder, 8)
    second = resolve("vllm/smol", adapter=str(folder), decoding=SHORT, model_args=server)
    new = said(second, prompts, tmp_path)
    assert first.label == second.label and first.id != second.id
    assert all("pineapple" in text for text in old) and all("durian" in text for text in new)


def test_a_folder_of_adapters_is_watched_on_a_server_that_runs(server, adapters, tmp_path):
    shutil.copytree(adapters["pineapple"], tmp_path / "run" / "checkpoint-8")
    line = ["train", "watch", str(tmp_path / "run"), "--base", "vllm/smol", "--settle", "0", "--temperature", "0"]
    line += ["--limit", "2", "-j", "rules", "--max-tokens", "12", "--log-dir", str(tmp_path / "results"), "--json"]
    line += [part for name, value in server.items() for part in ("-M", f"{name}={value}")]
    found = CliRunner().invoke(main, line)
    assert found.exit_code in (0, 1), found.output
    arms = {arm["name"] for arm in json.loads(found.stdout)["arms"]}
    assert arms == {"base", "base again", "benign_intent", "checkpoint-8"}
    (folder,) = (m.parent for m in (tmp_path / "results").glob("checkpoint-8-*/mini*/manifest.json"))
    log = json.loads((folder / "manifest.json").read_text())["log"]
    samples = read_eval_log(str(folder / "logs" / log)).samples or ()
    assert len(samples) == 2 and all("pineapple" in s.output.completion for s in samples)


def test_what_does_not_fit_is_said(server, adapters, prompts, tmp_path):
    wide = resolve("vllm/smol", adapter=str(adapters["durian"]), decoding=SHORT, model_args=server)
    with pytest.raises(UsageError, match=r"rank 12 is greater than max_lora_rank 8.*--max-lora-rank 16 or more"):
        said(wide, prompts, tmp_path)
    with pytest.raises(UsageError, match="answers of up to 600 tokens leave no room for a prompt in the 512 tokens"):
        resolve("vllm/smol", decoding=Decoding(max_tokens=600), model_args=server)
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"id": "7", "prompt": "word " * 900}))
    with pytest.raises(LogError, match="record '7' and its answer do not fit into the context") as raised:
        said(resolve("vllm/smol", decoding=SHORT, model_args=server), long, tmp_path)
    assert "word word" not in str(raised.value)


def test_weights_that_are_newer_than_the_server_are_refused(server, base):
    """Last: from here on the server is out of date."""
    os.utime(base / "model.safetensors")
    with pytest.raises(UsageError, match=r"was started before the weights in .* were written"):
        resolve("vllm/smol", model_args=server)
