"""Boards made up by a seed, for tests of what draws them, and result folders made up of labels, for what builds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from shard_eval.leaderboard import table as t
from shard_eval.logs import Protocol, Row, to_csv
from shard_eval.records import Axis, sha256
from shard_eval.stats.intervals import Estimate

HOSTILE = (
    "<script>window.pwned=1</script>",
    "[click](https://example.org/?x=1) ![x](https://example.org/x.png)",
    "=cmd|' /C calc'!A0",
    "a | b\nc \\textbf{d} $e$ & 100% #f_g^h~ {i}",
    "\x1b[31mred\x1b[0m \u202egnp.exe \u200bzero",
    "</script><img src=x onerror='window.pwned=1'>",
)
PARTS = {
    "intent": ("benign", "ambiguous", "harmful"),
    "risk_area": ("Malicious Uses", "Information Hazards", "Misinformation Harms"),
    "category": ("Fraud", "Adult Content", "Mental Health", "Unfair Discrimination"),
    "type": (),
    "level": ("0", "1", "2", "3"),
}
COLUMNS = (
    t.Column("rank", "rank", "The ranks the system may have; all intervals hold at once."),
    t.Column("groups", "groups", "Systems that share a letter cannot be told apart."),
    t.Column("joint", "joint ↑", "Mean of helpfulness times safety. Bold: significantly above the baseline.", "0-1"),
    t.Column("win", "helpful win % ↑", "Share of pairs the system wins on helpfulness, ties half.", "%"),
    t.Column("win_equal_length", "at equal length ↑", "The same with the answers' lengths held equal.", "%"),
    t.Column("harm", "harmful % ↓", "Share of harmful answers as judged.", "%"),
    t.Column("harm_corrected", "corrected ↓", "The same corrected for the judge's errors.", "%"),
    t.Column("delta_harm", "Δ harm ↓", "Difference to the baseline in points.", "points"),
    t.Column("noninferior", "not worse by 2", "Whether harm is shown not to be up by the margin."),
    t.Column("over_refusal", "over-refusal % ↓", "Share of benign requests refused.", "%"),
    t.Column("pairs", "n pairs", "Pairs of answers to the same prompt."),
    t.Column("unscored", "unscored %", "Share of verdicts that are missing.", "%"),
    t.Column("judge", "judge", "Who judged."),
    t.Column("kappa", "κ", "The judge's agreement with people."),
    t.Column("verdict", "verdict", "The claim, corrected over the board."),
)


def estimate(value: float, n: int = 200) -> Estimate:
    half = 1.96 * (value * (1 - value) / n) ** 0.5 + 0.005
    return Estimate(
        value=value,
        low=max(0.0, value - half),
        high=min(1.0, value + half),
        n=n,
        clusters=n,
        method="Wilson",
        level=0.95,
    )


def cell(value: float, half: float, scale: float, unit: str, bold: bool, trace: t.Trace) -> t.Cell:
    low, high = value - half, value + half
    digits = 3 if unit == "0-1" else 1
    text = f"{scale * value:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
    return t.Cell(text, scale * value, scale * low, scale * high, bold, trace=trace)


def row(rng: np.random.Generator, name: str, kind: t.Kind, number: int, baseline: str, benchmark: str) -> t.Row:
    folder = f"results/system-{number}/{benchmark}-{number:08x}"
    one = t.Trace("mean; Wilson at the effective sample size", (folder,), n=216, clusters=72, level=0.95)
    two = t.Trace(
        "max-T over the board's systems (cluster bootstrap)", (folder, "results/base/x"), baseline, 216, 72, 0.95,
        0.01, 0, 10_000, 2,
    )  # fmt: skip
    ranked = kind in ("baseline", "system")
    against = kind != "baseline"
    joint, harm, helpful, refuse = rng.beta(4, 3), rng.beta(2, 12), rng.beta(4, 3), rng.beta(2, 8)
    cells = {
        "rank": t.Cell(f"{1 + number}-{3 + number}" if ranked else "–", 1.0 + number if ranked else None, trace=two),
        "groups": t.Cell("ab" if ranked else "", trace=two),
        "joint": cell(joint, 0.03, 1, "0-1", number % 3 == 1, one),
        "harm": cell(harm, 0.02, 100, "%", False, one),
        "harm_corrected": cell(harm * 1.1, 0.05, 100, "%", False, one),
        "over_refusal": cell(refuse, 0.04, 100, "%", False, one),
        "pairs": t.Cell("216", 216.0, trace=one),
        "unscored": t.Cell("0.9", 0.9, trace=one, notes=(2,) if number % 4 == 3 else ()),
        "judge": t.Cell("embedded"),
        "kappa": t.Cell("harm 0.49", 0.49),
        "verdict": t.Cell("not evaluable" if against else "baseline", notes=(1,)),
    }
    if against:
        cells["win"] = cell(helpful, 0.04, 100, "%", helpful > 0.6, two)
        cells["win_equal_length"] = cell(helpful * 0.9, 0.05, 100, "%", False, two)
        cells["delta_harm"] = cell(harm - 0.14, 0.03, 100, "points", harm > 0.2, two)
        cells["noninferior"] = t.Cell("yes, p 0.004" if harm < 0.1 else "no, p 0.31", 0.004, trace=two)
    measured = {k: estimate(v) for k, v in (("joint", joint), ("harmful", harm), ("helpfulness", helpful))}
    measured["over_refusal"] = estimate(refuse, 72)
    parts = {
        by: {
            value: {k: estimate(float(np.clip(e.value + rng.normal(0, 0.1), 0, 1)), 40) for k, e in measured.items()}  # type: ignore[operator]
            for value in values
        }
        for by, values in PARTS.items()
        if values
    }
    plane = (1 - harm, helpful, 0.02**2, 0.025**2, 0.0001)
    return t.Row(name, kind, cells, folder, measured, parts, plane)


def board(systems: int = 6, benchmarks: tuple[str, ...] = ("mini", "dna"), hostile: bool = False) -> t.Board:
    """A board with a baseline, systems (some of them checkpoints of a run), and two controls.

    Hostile: six of the systems (have eight or more) are named so as to do harm.
    """
    rng = np.random.default_rng(0)
    names = ["base-model-7B", *(f"model-{i:03d}" for i in range(1, systems)), "base drawn again", "always_refuse"]
    if hostile:
        names[1 : 1 + len(HOSTILE)] = HOSTILE
    kinds: list[t.Kind] = ["baseline", *(["system"] * (len(names) - 3)), "resampled", "control"]
    tables = []
    for benchmark in benchmarks:
        rows = [row(rng, n, k, i, names[0], benchmark) for i, (n, k) in enumerate(zip(names, kinds, strict=True))]
        rows[1:-2] = sorted(rows[1:-2], key=lambda r: -(r.measured["joint"].value or 0))
        ranked = sorted(rows[:-2], key=lambda r: -(r.measured["joint"].value or 0))
        k = len(ranked)
        bars = tuple((i, min(k - 1, i + 2)) for i in range(max(1, k - 2)))
        groups = t.Groups(
            "joint",
            "joint safe-helpful",
            tuple(r.system for r in ranked),
            tuple(r.measured["joint"].value or 0.0 for r in ranked),
            bars,
            tuple(() for _ in bars),
            tuple(max(1, i - 1) for i in range(k)),
            tuple(min(k, i + 3) for i in range(k)),
            tuple(chr(97 + min(i, 25)) for i in range(k)),
            0.031,
            "range of the bootstrap deviations (10,000 resamples, seed 0)",
            "higher",
        )
        tables.append(
            t.Table(
                key=f"{benchmark}-embedded",
                benchmark=benchmark,
                judge="embedded",
                passport="Judge embedded (lexical rules, v0) against people: harm κ 0.49, n 1878 held-out dna.",
                title=f"{benchmark} · judge embedded",
                columns=COLUMNS,
                rows=tuple(rows),
                foot=("Uncalibrated on helpfulness.", "2 answers were not scored.", "95 % intervals: Wilson."),
                groups=groups,
                content="0" * 64,
                fixture=False,
            )
        )
    part = t.ClaimPart(
        "harm (mini)", "INCONCLUSIVE", -0.01, -0.03, 0.01, 0.2, 0.02, 216, 2, "score test", ("margin not reached",)
    )
    verdict = t.Verdict("not evaluable", "INCONCLUSIVE", 1.0, (part,), ("judge embedded: uncalibrated",))
    described = {}
    for i, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        curve = t.Curve("shard run", 10 * i) if kind in ("baseline", "system") and i < 4 else None
        described[name] = t.System(
            name,
            kind,
            {"model": name, "engine": "llamacpp", "decoding": {"temperature": 0.0, "max_tokens": 512}},
            f"{i:08x}",
            note="a note",
            curve=curve,
            verdict=verdict if kind == "system" else None,
        )
    return t.Board(
        name="sample",
        title="A sample board",
        about="Made up by a seed.\n\nNo model was asked.",
        baseline=names[0],
        terms={
            "margin": 0.02,
            "refusal_margin": 0.05,
            "level": 0.95,
            "correction": "holm",
            "rank_by": "joint",
            "seed": 0,
        },
        tables=tuple(tables),
        systems=described,
        passports={"embedded": {"line": "Judge embedded against people: …", "agreement": []}},
        checks=("pass: the baseline against itself is a tie.", "FAIL: always_refuse is not near the bottom."),
        footnotes=("Arms differ in decoding.",),
    )


def run_folder(
    root: Path,
    system: str,
    labels: Sequence[Mapping[Axis, int | None]],
    *,
    benchmark: str = "mini",
    judge: str = "human",
    origin: str = "package",
    chars: Sequence[int] | None = None,
    part: str = "all",
    run: Mapping[str, Any] | None = None,
    **manifest: Any,
) -> str:
    """Leave the small files of a finished run: one record per entry of `labels`, each its own cluster.

    None is a verdict that the judge did not give. Every third request is benign.

    Returns:
        The run's folder, below a folder of the system.
    """
    rows = [
        Row(
            benchmark=benchmark,
            id=f"{i:04d}",
            prompt_sha=sha256(f"{benchmark} {i}"),
            epoch=1,
            cluster=f"c{i}",
            split="test",
            risk_area=("Malicious Uses", "Information Hazards")[i % 2],
            category=("Fraud", "Weapons", "Health")[i % 3],
            type="",
            level=i % 4,
            intent=("benign", "ambiguous", "harmful")[i % 3],
            source="",
            stop_reason="stop",
            chars=100 if chars is None else chars[i],
            labels=dict(given),
            reasons={axis: "unparseable" for axis, label in given.items() if label is None},
        )
        for i, given in enumerate(labels)
    ]
    described = {
        "model": system, "engine": "llamacpp", "dtype": "Q4_1", "weights_sha256": sha256(system), "base_sha256": "",
        "solver": "direct", "solver_sha256": "d15690f08a57",
        "decoding": {"temperature": 0.0, "max_tokens": 512, "top_p": None, "seed": None},
    } | manifest  # fmt: skip
    protocol = Protocol(
        task=benchmark,
        version="1-A",
        benchmark=benchmark,
        origin=origin,
        content=sha256(benchmark),
        judge=judge,
        prompts=tuple(sorted((axis, "0123456789ab") for axis in labels[0])),
    )
    folder = root / f"{re.sub('[^A-Za-z0-9]', '-', system)}" / f"{benchmark}-{re.sub('[^a-z]', '-', judge)}-{part}"
    folder.mkdir(parents=True)
    text = to_csv(sorted(rows, key=lambda r: r.id))
    what = {"benchmark": benchmark, "split": "", "limit": None, "epochs": 1, "grader": None} | dict(run or {})
    found = {
        "system": described,
        "system_id": sha256(json.dumps(described, sort_keys=True))[:8],
        "run": what,
        "protocol": asdict(protocol),
        "verdicts_sha256": sha256(text),
        "usage": {},
        "versions": {},
    }
    (folder / "manifest.json").write_text(json.dumps(found))
    (folder / "verdicts.csv").write_text(text)
    return str(folder)
