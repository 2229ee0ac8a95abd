"""The two stages of a leg: warm up on reasoning that was written and read, then prefer among what the model draws.

    LEG/{data.jsonl, warmup/, draw-…/, read/, continue-…/, pairs.jsonl, preference/, train/}

`train` holds what is scored: the end of the warm-up, and after it the checkpoints of the second stage, each as one
adapter of the base (or one whole model), with steps that count on.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from shard_eval import prompts as prompt_files
from shard_eval.errors import UsageError
from shard_eval.reasoning import Trace
from shard_eval.records import Record, sha256
from shard_eval.solvers import policy_text, split_name
from shard_eval.systems import Decoding
from shard_train import dpo, generate, sft, training
from shard_train import experiment as recipe_of
from shard_train.experiment import Experiment, Leg, Prompts, Trained
from shard_train.saro import pairs as pairs_of
from shard_train.saro import replies
from shard_train.saro.pairs import Pair, Sampled, Tally
from shard_train.saro.readings import Item, Reader, Reading, why_not
from shard_train.select import Decision

Readers = Callable[[], AbstractContextManager[tuple[Reader, dict[str, Any]]]]
"""Makes a reader, and what was seen of its guard; leaving it frees what it holds on a graphics card."""


@dataclass
class Drawn:
    """What the second stage learns from, and how it came about.

    Attributes:
        pairs: of all requests.
        tally: pairs by kind, and why there are no more.
        replies: how many drawn replies were what.
        usage: tokens of drawing and continuing.
    """

    pairs: list[Pair] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    replies: Counter[str] = field(default_factory=Counter)
    usage: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Counts, no text."""
        return {
            "replies": dict(self.replies.most_common()),
            "pairs": dict(self.tally.made.most_common()),
            "no_pair": dict(self.tally.dropped.most_common()),
            "usage": dict(self.usage),
        }


def make_targets(
    experiment: Experiment, leg: Leg, prompts: Prompts, readers: Readers, console: Console, cache: bool = True
) -> Trained:
    """Write reasoning to learn for a leg's prompts, and keep what may be learned.

    Args:
        experiment: what to do.
        leg: which part of it.
        prompts: of the leg.
        readers: who says what may be learned.
        console: for the progress bars.
        cache: keep generations of local weights by content.

    Raises:
        UsageError: if nothing is left to learn from.
        LogError, KeyboardInterrupt: as `generate.generate`.
    """
    place, how = experiment.place(leg), experiment.recipe.reasoning
    written, used = replies.write(
        prompts.train, experiment.generator, str(place / "generate"), console, cache=cache, **experiment.limits
    )
    items = [(r, reply) for r, reply in zip(prompts.train, written, strict=True) if isinstance(reply, Trace)]
    with readers() as (read, trust):
        seen = _read(items, read, "written")
    decisions, known = [], set[str]()
    for record, reply in zip(prompts.train, written, strict=True):
        target = _target(record, reply, how.tags)
        reason = reply if isinstance(reply, str) else _dropped(record, reply, seen[record.key, reply], how.longest)
        if not reason and target.refined in known:
            reason = "the same as another"
        if not reason:
            known.add(target.refined)
        decisions.append(Decision(target, reason))
    targets = tuple(d.target for d in decisions)
    made = Trained(leg, prompts, generate.Generated(targets, used, ""), tuple(decisions), star=trust)
    recipe_of.write_data(experiment, made, decisions, "Reasoning with a policy needs a model of some 1.5B parameters.")
    return made


def _target(record: Record, reply: replies.Reply, tags: str) -> generate.Target:
    if isinstance(reply, str):
        return generate.Target(record.key, record.prompt, record.type, "", "", f"reasoning: {reply}")
    return generate.Target(record.key, record.prompt, record.type, "", reply.text(tags), "written")


def _dropped(record: Record, reply: Trace, reading: Reading, longest: int) -> str:
    words = len(reply.reasoning.split()) + len(reply.answer.split())
    return f"longer than {longest} words" if words > longest else why_not(record, reading)


def train(
    experiment: Experiment, made: Trained, readers: Readers, base: Path, console: Console, cache: bool, **how: Any
) -> Trained:
    """Both stages of a leg, or what is left of them.

    Args:
        experiment: what to do.
        made: the leg, with its data file.
        readers: who says what may be learned.
        base: the checkpoint that is trained.
        console: for the progress bars.
        cache: keep generations of local weights by content.
        how: of the trainer: processes and env.

    Raises:
        UsageError: if no pairs come about.
        LogError, KeyboardInterrupt: as `training.train` and `generate.generate`.
    """
    place = experiment.place(made.leg)
    job = replace(recipe_of.job(experiment, made, base), out=str(place / "warmup"))
    warm = training.train(job, console, **how)
    last = sft.complete(place / "warmup")[-1]
    drawn = draw(experiment, made, last, readers, console, cache)
    counts = ", ".join(f"{kind} {n}" for kind, n in drawn.tally.made.most_common())
    console.print(f"{drawn.replies['drawn']} replies drawn, pairs: {counts or 'none'}", highlight=False)
    sft.write_json(place / "pairs.json", drawn.to_json())
    if not drawn.pairs:
        why = ", ".join(f"{reason} {n}" for reason, n in [*drawn.replies.items(), *drawn.tally.dropped.items()])
        raise UsageError(
            f"no pairs are left for the second stage ({why}). The warm-up is kept in {place / 'warmup'}. Take more "
            "training prompts, harmful and benign ones, or more samples per prompt."
        )
    sft.write_json(place / "pairs.jsonl", *(pair.row() for pair in drawn.pairs))
    second = replace(
        job,
        data=str(place / "pairs.jsonl"),
        out=str(place / "preference"),
        training=experiment.recipe.second_stage,
        start=str(last),
        preference=experiment.recipe.preference,
    )
    summary = training.train(second, console, **how)
    summary = summary | {
        "checkpoints": gather(place, experiment.recipe.training.kind, last, warm, summary),
        "warmup": warm,
        "saro": drawn.to_json(),
    }
    return replace(made, summary=summary)


def draw(experiment: Experiment, made: Trained, warm: Path, readers: Readers, console: Console, cache: bool) -> Drawn:
    """Draw replies from the warmed-up model, read them, and make pairs.

    Args:
        experiment: what to do.
        made: the leg.
        warm: the checkpoint after the warm-up.
        readers: who reads.
        console: for the progress bars.
        cache: keep generations of local weights by content.
    """
    place, recipe = experiment.place(made.leg), experiment.recipe
    how, found, records = recipe.reasoning, Drawn(), made.prompts.train
    decoding = Decoding(how.temperature, recipe.generation.max_tokens, None, recipe.generation.seed)
    system = recipe_of.checkpoint(experiment, warm, f"{experiment.title} warm-up", decoding)
    folder = str(place / f"draw-{system.id}")
    limits = experiment.limits
    lists, used = replies.draw(records, system, how.samples, folder, console, cache=cache, **limits)
    lots = dict(zip(records, lists, strict=True))
    found.usage.update(used)
    for lot in lots.values():
        found.replies["drawn"] += len(lot)
        found.replies.update(reply for reply in lot if isinstance(reply, str))
    with readers() as (read, _):
        seen = _read([(r, t) for r, lot in lots.items() for t in lot if isinstance(t, Trace)], read, "drawn")
        sampled = {
            r: [Sampled(t, seen[r.key, t]) for t in dict.fromkeys(lot) if isinstance(t, Trace)]
            for r, lot in lots.items()
        }
        traces = [reply for lot in lots.values() for reply in lot if isinstance(reply, Trace)]
        found.replies["the same as another"] = len(traces) - sum(map(len, sampled.values()))
        for record, some in sampled.items():
            found.replies.update(why_not(record, s.reading) or "may be given" for s in some)
            found.replies["reflect"] += sum(s.reading.reflection > 0 for s in some)
            found.pairs += pairs_of.whole(record, some, how, found.tally)
        late = {r: one for r, some in sampled.items() if (one := pairs_of.to_continue(some, how))}
        begun = {r: one.trace.steps[: how.begun] for r, one in late.items()}
        writer = replace(experiment.generator, solver=experiment.chain)
        folder = str(place / f"continue-{system.id}")
        better, used = replies.go_on(begun, writer, folder, console, cache=cache, **limits)
        found.usage.update(used)
        found.tally.dropped.update(f"beginning: the continuation is {b}" for b in better.values() if isinstance(b, str))
        whole = {r: t for r, t in better.items() if isinstance(t, Trace)}
        again = _read(list(whole.items()), read, "continued")
    for record, trace in whole.items():
        continued = Sampled(trace, again[record.key, trace])
        if pair := pairs_of.beginning(record, late[record], continued, how, found.tally):
            found.pairs.append(pair)
    return found


def _read(items: Sequence[Item], read: Reader, name: str) -> dict[tuple[tuple[str, str, str], Trace], Reading]:
    """What is seen in each different reply; a reading's name tells its content, so that none is taken for another."""
    unique = list(dict.fromkeys(items))
    content = sha256(json.dumps([[r.key, t.steps, t.answer] for r, t in unique]))[:8]
    found = read(unique, f"{name}-{content}")
    return {(r.key, t): reading for (r, t), reading in zip(unique, found, strict=True)}


def gather(place: Path, kind: str, last: Path, warm: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    """Put what is scored into `train`: the end of the warm-up, and every checkpoint of the second stage.

    Args:
        place: of the leg.
        kind: of training.
        last: the warm-up's last checkpoint.
        warm: the warm-up's summary.
        second: the second stage's.

    Returns:
        The checkpoints, as in a summary.
    """
    train, offset = place / "train", int(warm["steps"])
    train.mkdir(exist_ok=True)
    end = warm["checkpoints"][-1]
    marker = {"step": offset, "epoch": end["epoch"], "kind": kind}
    wanted = {offset, *(offset + one["step"] for one in second["checkpoints"])}
    for old in train.glob("checkpoint-*"):  # of an earlier training in this folder
        if old.name not in {f"checkpoint-{step}" for step in wanted}:
            shutil.rmtree(old)
    folders = [dpo.copy(last, train / f"checkpoint-{offset}", marker)]
    for one in second["checkpoints"]:
        marker = {"step": offset + one["step"], "epoch": end["epoch"] + one["epoch"], "kind": kind}
        made, out = place / "preference" / one["folder"], train / f"checkpoint-{marker['step']}"
        folders.append(dpo.copy(made, out, marker) if kind == "full" else dpo.join(last, made, out, marker))
    steps = [{**e, "stage": "warm-up"} for e in sft.events(place / "warmup")]
    steps += [{**e, "stage": "preference", "step": offset + e["step"]} for e in sft.events(place / "preference")]
    sft.write_json(train / sft.EVENTS, *steps)
    marks = [json.loads((f / sft.MARKER).read_text(encoding="utf-8")) for f in folders]
    return [
        {k: m[k] for k in ("step", "epoch", "sha256")} | {"folder": f.name} for f, m in zip(folders, marks, strict=True)
    ]


def estimate(records: Sequence[Record], experiment: Experiment) -> generate.Cost:
    """What writing, drawing and continuing costs about, at two thirds of the longest reply.

    Characters are counted as a quarter of a token.
    """
    n, how = len(records), experiment.recipe.reasoning
    request = sum(len(r.prompt) for r in records) // 4
    policy = policy_text(split_name(experiment.chain)[1])
    rules = (
        n * len(prompt_files.load("reason_write").text + prompt_files.load("reason_continue").text + 2 * policy) // 4
    )
    drawn = how.samples * n
    reply = 2 * experiment.recipe.generation.max_tokens // 3
    return generate.Cost(2 * n + drawn, rules + (2 + how.samples) * request, (2 * n + drawn) * reply)
