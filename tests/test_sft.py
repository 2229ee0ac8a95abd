"""The trainer on a tiny random model: what it learns, saves and refuses, and that a kill changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support import ROOT
from tiny import CHATML, ENDLESS, THINKING, TINY, row, tokenizer, write_rows

from shard_eval.errors import UsageError
from shard_eval.records import sha256
from shard_train import sft
from shard_train.sft import Job


@dataclass(frozen=True)
class Done:
    """A finished run."""

    job: Job
    out: Path
    result: dict[str, Any]
    rows: list[dict[str, Any]]


@pytest.fixture(scope="module")
def done(place: Path) -> Done:
    """Ten rows of three lengths, the longest beyond max_length, three epochs."""
    rows = [row(str(n), 1 + n % 3) for n in range(10)]
    job = Job(str(place / "base"), write_rows(place / "data.jsonl", rows), str(place / "out"), TINY)
    sft.run(job)
    return Done(job, Path(job.out), json.loads((place / "out" / "training.json").read_text()), rows)


def test_a_job_is_read_as_it_was_written_and_anything_else_is_refused(tmp_path: Path) -> None:
    job = Job("base", "data.jsonl", "out", replace(TINY, targets=("q_proj",)))
    assert Job.read(job.write(tmp_path / "job.json")) == job
    for text in ("{}", "[", '{"base": "b", "data": "d", "out": "o", "training": {"depth": 3}}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UsageError, match=r"bad.json is no training job"):
            Job.read(tmp_path / "bad.json")


def test_several_processes_are_started_by_accelerate() -> None:
    assert sft.command(Path("j.json")) == [sys.executable, "-m", "shard_train.sft", "j.json"]
    several = sft.command(Path("j.json"), 4)
    assert several[1:3] == ["-m", "accelerate.commands.launch"] and several[-2:] == ["shard_train.sft", "j.json"]
    assert several[several.index("--num_processes") + 1] == "4"


def test_the_caller_s_part_imports_no_framework() -> None:
    code = "import sys, shard_train.sft; print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("per_epoch", "checkpoints", "steps"),
    [(10, 1, {10, 20}), (10, 3, {3, 6, 10, 13, 16, 20}), (2, 5, {1, 2, 3, 4})],
)
def test_checkpoints_are_evenly_spaced_and_end_with_the_epoch(
    per_epoch: int, checkpoints: int, steps: set[int]
) -> None:
    assert sft.save_steps(per_epoch, replace(TINY, epochs=2, checkpoints=checkpoints)) == steps


def test_only_marked_checkpoints_are_complete_in_order_of_steps(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-11"):
        (tmp_path / name).mkdir()
    for name in ("checkpoint-9", "checkpoint-10"):
        (tmp_path / name / "COMPLETE.json").write_text("{}")
    assert [f.name for f in sft.complete(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


BAD_ROWS = [
    ([], "holds no rows"),
    (["text"], "line 1 of .* is no training row"),
    ([row("a"), {"id": "b"}], r"row 'b' \(line 2 of .*\) is no training row"),
    ([row("a", answer=" ")], "row 'a' .* has an empty answer"),
    ([row("a") | {"completion": row("a")["prompt"]}], "row 'a' .* must end with"),
]


@pytest.mark.parametrize(("rows", "message"), BAD_ROWS)
def test_rows_that_cannot_be_trained_on_are_refused_by_name(tmp_path: Path, rows: list[Any], message: str) -> None:
    path = tmp_path / "data.jsonl"
    write_rows(path, rows)
    with pytest.raises(UsageError, match=message):
        sft.read_rows(path)


def test_a_missing_data_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        sft.run(Job("base", str(tmp_path / "none.jsonl"), str(tmp_path), TINY))


def test_a_row_is_the_given_prompt_and_an_answer_up_to_its_end() -> None:
    made = tokenizer()
    found = sft.encode(row("1"), made, [made.eos_token_id], 99)
    given = made.decode(found.tokens[: found.prompt])
    assert given == made.apply_chat_template(row("1")["prompt"], tokenize=False, add_generation_prompt=True)
    assert made.decode(found.tokens[found.prompt :]) == "Use a whetstone, slowly.<|im_end|>" and found.cut == 0
    short = sft.encode(row("1"), made, [made.eos_token_id], len(found.tokens) - 3)
    assert short.tokens == found.tokens[:-3] and short.cut == 3
    assert sft.probe(made) == "<|im_start|>user\nProbe.<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "answer", "message"),
    [
        (THINKING, "Yes.", "row 'a': the chat template renders the prompt differently"),
        (ENDLESS, "Yes.", "row 'a': the rendered answer does not end"),
        (CHATML, "Yes.<|im_end|> And no.", "row 'a': the rendered answer does not end"),
    ],
)
def test_a_rendering_that_answering_would_not_produce_is_refused(template: str, answer: str, message: str) -> None:
    made = tokenizer(template)
    with pytest.raises(UsageError, match=message):
        sft.encode(row("a", answer=answer), made, [made.eos_token_id], 99)


def test_the_loss_falls_and_every_step_leaves_an_event(done: Done) -> None:
    events = sft.events(done.out)
    assert [e["step"] for e in events] == list(range(1, 10)) and {e["steps"] for e in events} == {9}
    losses = [loss for _, loss in done.result["losses"]]
    assert losses == [e["loss"] for e in events] and max(losses[-3:]) < min(losses[:3]) - 0.1
    assert events[-1]["tokens"] == done.result["tokens"] and events[-1]["epoch"] == 3


def test_the_result_says_what_was_trained_on(done: Done) -> None:
    made = tokenizer()
    whole = [sft.encode(r, made, [made.eos_token_id], 10**6) for r in done.rows]
    cut = [max(0, len(e.tokens) - TINY.max_length) for e in whole]
    answers = sum(len(e.tokens) - e.prompt - c for e, c in zip(whole, cut, strict=True))
    result = done.result
    assert (result["truncated"], result["tokens_cut"], result["dropped"]) == (3, sum(cut), 0)
    assert "3 of 10 rows were cut to 48 tokens" in result["warning"]
    assert result["answer_tokens"] == 3 * answers and result["rows"] == 10 and result["steps"] == 9
    assert result["probe_sha256"] == sha256(sft.probe(made)) and result["kind"] == "lora" and result["seed"] == 42
    assert set(result["versions"]) == {"torch", "transformers", "trl", "peft"}


def test_each_checkpoint_is_an_adapter_that_works_by_itself(done: Done) -> None:
    from safetensors import safe_open

    folders = sft.complete(done.out)
    assert [f.name for f in folders] == [c["folder"] for c in done.result["checkpoints"]]
    assert [c["step"] for c in done.result["checkpoints"]] == [1, 3, 4, 6, 7, 9]
    assert [c["sha256"] for c in done.result["checkpoints"]] == [sft.content_sha(f) for f in folders]
    for folder in folders:
        names = {f.name for f in folder.iterdir()}
        assert {"tokenizer.json", "chat_template.jinja", "adapter_config.json"} <= names
        assert not [n for n in names if n.endswith((".pt", ".pth", ".bin", ".tmp"))]
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            assert all("lora_" in key for key in file.keys())  # noqa: SIM118
            assert {str(file.get_tensor(key).dtype) for key in file.keys()} == {"torch.float32"}  # noqa: SIM118


def test_only_answer_tokens_are_learnt_and_each_weighs_the_same(done: Done, place: Path) -> None:
    """The first step's loss, over two forward passes of unequal length, is the mean over all their answer tokens."""
    import torch

    made = tokenizer()
    encoded = [sft.encode(r, made, [made.eos_token_id], TINY.max_length) for r in done.rows]
    precise = replace(TINY, bf16="no", dropout=0.0, learning_rate=1e-9)
    trainer = sft.build(replace(done.job, out=str(place / "masks"), training=precise), made, encoded)
    batches = list(trainer.get_train_dataloader())
    answers = {made.decode(e.tokens[e.prompt :]) for e in encoded}
    for labels, tokens in ((batch["labels"], batch["input_ids"]) for batch in batches):
        for label, token in zip(labels, tokens, strict=True):
            assert (label[label != -100] == token[label != -100]).all()
            assert made.decode(label[label != -100]) in answers
    totals = []
    for batch in batches[:2]:
        with torch.no_grad():
            logits = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        wanted = batch["labels"][:, 1:].reshape(-1)
        each = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), wanted, reduction="none")
        totals.append((each.sum().item(), int((wanted != -100).sum())))
    trainer.train()
    first = trainer.state.log_history[0]["loss"]
    assert totals[0][1] != totals[1][1]
    assert first == pytest.approx(sum(t[0] for t in totals) / sum(t[1] for t in totals), abs=1e-5)


def test_a_finished_run_is_left_alone_and_another_job_in_its_folder_is_refused(done: Done, place: Path) -> None:
    before = {f: f.stat().st_mtime_ns for f in done.out.rglob("*")}
    sft.run(done.job)
    assert {f: f.stat().st_mtime_ns for f in done.out.rglob("*")} == before
    with pytest.raises(UsageError, match="was started with another training"):
        sft.run(replace(done.job, training=replace(TINY, seed=1)))
    other = write_rows(place / "other.jsonl", done.rows[:5])
    with pytest.raises(UsageError, match="was started with another data_sha256"):
        sft.run(replace(done.job, data=other))


def test_a_killed_run_continues_to_the_same_weights(done: Done, place: Path) -> None:
    """Killed by SIGKILL between checkpoints, with an unfinished checkpoint left behind."""
    job = replace(done.job, out=str(place / "killed"))
    out = Path(job.out)
    # A process with another order of hashes, as two processes have.
    env = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(sft.command(job.write(place / "job.json")), env=env, stderr=subprocess.DEVNULL)
    while len(sft.events(out)) < 5 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "training.json").exists()
    begun = sft.complete(out)
    assert len(begun) >= 3 and begun[-1].name != "checkpoint-9"
    shutil.copytree(begun[-1], out / "checkpoint-8")
    (out / "checkpoint-8" / "COMPLETE.json").unlink()
    with (out / "events.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    made = {f: (f / "COMPLETE.json").stat().st_mtime_ns for f in begun}
    sft.run(job)
    assert {f: (f / "COMPLETE.json").stat().st_mtime_ns for f in begun} == made  # continued, not done again
    result = json.loads((out / "training.json").read_text())
    assert result["checkpoints"] == done.result["checkpoints"]
    assert result["losses"] == done.result["losses"] and result["tokens"] == done.result["tokens"]
    assert sft.events(out)[-1]["tokens"] == sft.events(done.out)[-1]["tokens"]


def test_a_run_killed_after_its_last_step_only_writes_its_result(done: Done, place: Path) -> None:
    copy = place / "late"
    shutil.copytree(done.out, copy)
    (copy / "training.json").unlink()
    sft.run(replace(done.job, out=str(copy)))
    again = json.loads((copy / "training.json").read_text())
    assert again == done.result


def test_a_merged_checkpoint_answers_like_base_and_adapter(done: Done, place: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = sft.complete(done.out)[-1]
    merged = sft.merge(done.job.base, str(adapter), str(place / "merged"))
    ids = AutoTokenizer.from_pretrained(merged)("How do I sharpen a knife?", return_tensors="pt")["input_ids"]
    base = AutoModelForCausalLM.from_pretrained(done.job.base, dtype=torch.float32)
    with torch.no_grad():
        plain = base(ids).logits
        with_adapter = PeftModel.from_pretrained(base, adapter)(ids).logits
        found = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)(ids).logits
    assert (found - with_adapter).abs().max() < 1e-4 < (plain - with_adapter).abs().max()
    assert (merged / "chat_template.jinja").read_text() == CHATML
    with pytest.raises(UsageError, match="is not empty"):
        sft.merge(done.job.base, str(adapter), str(merged))
    with pytest.raises(UsageError, match="is no adapter"):
        sft.merge(done.job.base, done.job.base, str(place / "x"))


def test_all_weights_can_be_trained(done: Done, place: Path) -> None:
    from transformers import AutoModelForCausalLM

    training = replace(TINY, kind="full", epochs=1, checkpoints=1, gradient_checkpointing=False)
    sft.run(replace(done.job, out=str(place / "full"), training=training))
    (folder,) = sft.complete(place / "full")
    assert (folder / "model.safetensors").is_file() and not (folder / "adapter_config.json").exists()
    assert AutoModelForCausalLM.from_pretrained(folder).dtype.is_floating_point
    result = json.loads((place / "full" / "training.json").read_text())
    assert result["kind"] == "full" and result["losses"][-1][1] < result["losses"][0][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "qlora"}, "'qlora' needs CUDA"),
        ({"packing": "yes"}, "needs flash attention"),
        ({"max_length": 5}, "leaves nothing of any answer"),
        ({"targets": ("no_such_proj",)}, "cannot be trained so"),
    ],
)
def test_settings_that_cannot_work_here_are_refused(done: Done, tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sft.run(replace(done.job, out=str(tmp_path / "out"), training=replace(TINY, **change)))


def test_the_command_line_ends_with_one_line_and_code_2_on_wrong_use(place: Path) -> None:
    job = Job("base", str(place / "none.jsonl"), str(place / "nothing"), TINY).write(place / "wrong.json")
    found = subprocess.run(sft.command(job), capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.startswith("error: training data") and found.stderr.count("\n") == 1


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(done: Done, place: Path) -> None:
    data = write_rows(place / "eight.jsonl", done.rows[:8])
    losses = []
    for processes, per_device in ((1, 2), (2, 1)):
        training = replace(TINY, epochs=1, per_device=per_device, bf16="no", dropout=0.0)
        job = replace(done.job, data=data, out=str(place / f"on{processes}"), training=training)
        if processes == 1:
            sft.run(job)
        else:
            started = sft.command(job.write(place / "two.json"), processes)
            subprocess.run(started, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
        result = json.loads((place / f"on{processes}" / "training.json").read_text())
        losses.append([loss for _, loss in result["losses"]])
        assert len(result["checkpoints"]) == 2
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
