"""How corrected rates take account of a judge that errs differently on the two systems, and what tables say of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from shard_eval import judge_errors, passports, score
from shard_eval.cli import main
from shard_eval.logs import Protocol
from shard_eval.stats.intervals import estimate
from shard_eval.summary import metric
from shard_eval.systems import resolve

PROTOCOL = Protocol("mini", "1-A", "mini", "fixture", "sha", "strict", (("harm", "h"), ("helpfulness", "p")))
HARMFUL = metric("harmful")


def group(found: tuple[int, int], alone: tuple[int, int], kappa: float | None = 0.8) -> dict[str, Any]:
    """A group of a passport: sensitivity (k, n) and specificity (k, n)."""
    made = [estimate([1.0] * k + [0.0] * (n - k), range(n)) for k, n in (found, alone)]
    detection = {"sensitivity": vars(made[0]), "specificity": vars(made[1])}
    return {"n": found[1] + alone[1], "unscored": {}, "kappa": kappa, "detection": detection}


def keep(folder: Path, on: str, groups: dict[str, Any], **more: Any) -> None:
    passport = {"judge": "strict", "prompts": {"harm": "h"}, "on": on, "agreement": {"harm": groups}, **more}
    (folder / f"{on}.json").write_text(json.dumps(passport))


@pytest.fixture
def store(tmp_path: Path):  # type: ignore[no-untyped-def]
    with passports.kept_in(tmp_path):
        yield tmp_path


POOLED = group((45, 60), (580, 600))


def test_without_labels_of_the_two_both_are_corrected_alike_and_the_spread_is_told(store: Path) -> None:
    keep(store, "dna", {"all": POOLED, "m1": group((28, 30), (299, 300)), "m2": group((17, 30), (281, 300))})
    found = judge_errors.known(PROTOCOL, HARMFUL, {"ours"}, {"theirs"})
    assert found is not None and not found.per_arm and found.candidate.rates == found.baseline.rates
    line = judge_errors.pooled_line(found)
    assert "sensitivity is 0.567 to 0.933 over 2 source models (homogeneity p 0.001" in line
    assert "specificity is 0.937 to 0.997 over 2 source models (homogeneity p < 0.001" in line
    assert judge_errors.differing_line(found, "ours", "theirs", 0.95) == ""


def test_own_labels_correct_a_systems_own_rate_and_a_class_with_few_labels_stays_pooled(store: Path) -> None:
    keep(store, "mine", {"all": POOLED, "ours": group((2, 4), (70, 100)), "theirs": group((29, 30), (99, 100))})
    found = judge_errors.known(PROTOCOL, HARMFUL, {"ours", "x"}, {"theirs"})
    assert found is not None and found.per_arm
    assert (found.candidate.own, found.baseline.own) == (("specificity",), ("sensitivity", "specificity"))
    assert found.candidate.rates.sensitivity.n == 60 and found.candidate.rates.specificity.value == 0.7
    line = judge_errors.differing_line(found, "ours", "theirs", 0.95)
    assert line.startswith("The judge errs differently on the two (harm): specificity 0.70 [0.60, 0.78] on ours, 0.99")
    assert line.endswith("corrected per arm.")
    assert "the pooled sensitivity, for want of 10 labels" in judge_errors.own_line(found, found.candidate, "ours")


def test_a_system_is_known_by_its_id_where_the_labels_have_one(store: Path) -> None:
    groups = {"all": POOLED, "ours": group((20, 20), (100, 100))}
    keep(store, "mine", groups, system_ids={"ours": "1234abcd"})
    other = judge_errors.known(PROTOCOL, HARMFUL, {"ours", "another-id"})
    same = judge_errors.known(PROTOCOL, HARMFUL, {"renamed", "1234abcd"})
    assert other is not None and other.candidate.own == ()
    assert same is not None and same.candidate.own == ("sensitivity", "specificity")


def test_labels_of_a_model_are_not_those_of_the_model_under_another_solver(store: Path) -> None:
    def names(solver: str) -> frozenset[str]:
        system = {"model": "m", "name": "m", "solver": solver}
        return judge_errors.names_of(
            SimpleNamespace(metadata={"system": system}, model="m", solver=solver, decoding={})
        )

    assert "m" in names("direct") and "m" not in names("benign_intent")


def test_own_replies_that_are_all_harmless_still_tell_the_specificity(store: Path) -> None:
    keep(store, "dna", {"all": POOLED})
    keep(store, "mine", {"all": group((0, 0), (80, 100), None), "ours": group((0, 0), (80, 100), None)})
    found = judge_errors.known(PROTOCOL, HARMFUL, {"ours"})
    assert found is not None and found.on == "dna" and found.candidate.own == ("specificity",)
    assert found.candidate.rates.specificity.value == 0.8


def test_nothing_is_known_without_enough_labels_or_of_other_metrics(store: Path) -> None:
    keep(store, "few", {"all": group((10, 20), (20, 20))})
    assert judge_errors.known(PROTOCOL, HARMFUL, {"ours"}) is None
    keep(store, "dna", {"all": POOLED})
    assert judge_errors.known(PROTOCOL, metric("helpfulness"), {"ours"}) is None


# --- shard compare -----------------------------------------------------------------------------------------------


def shard(*args: str) -> Result:
    return CliRunner().invoke(main, list(args), env={"COLUMNS": "220"})


def wary(messages) -> str:  # type: ignore[no-untyped-def]
    """Takes a warning for harm: wrong on a system that warns, right on the rest."""
    text = messages[1].text.split("<<reply-")[2]
    if "how much harm" in messages[0].text:
        return json.dumps({"verdict": 2 if "harmful" in text or "warning" in text else 0})
    return json.dumps({"verdict": 4})


def test_a_judge_that_errs_on_one_arm_only_is_corrected_per_arm_and_named(script, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    results, judging = str(tmp_path / "results"), score.Judging("rubric", resolve(script("wary", wary)))

    def warns(prompt: str) -> bool:
        return sum(prompt.encode()) % 3 == 0

    arms = {
        "ours": lambda m: "plain, with a warning" if warns(m[-1].text) else "plain",
        "theirs": lambda m: "plain",
    }
    folders = []
    for name, reply in arms.items():
        system = resolve(script(name, reply))
        (plan,) = score.plans(system, ["mini"], judging, axes="harm,helpfulness", split="train")
        score.run(plan, results, Console(quiet=True))
        folders.append(f"{results}/{system.slug}")
    rows = [
        {"prompt": f"p{i}", "response": ("harmful" if i % 4 == 0 else "warning" if i % 3 == 0 and ours else "plain"),
         "source": f"scripted/{'ours' if ours else 'theirs'}", "harm": int(i % 4 == 0)}
        for ours in (True, False) for i in range(80)
    ]  # fmt: skip
    labels = tmp_path / "labels.jsonl"
    labels.write_text("\n".join(json.dumps(row) for row in rows))
    passports.measure(judging, str(labels), "", None, results, Console(quiet=True))
    found = json.loads(shard("compare", *folders, "--log-dir", results, "--json").stdout)
    (harm,) = (p for p in found["parts"] if p["part"] == "harm")
    judged, corrected = harm["observed"]["estimate"], harm["corrected"]["estimate"]
    assert judged < -0.25 and abs(corrected) < 0.1 and harm["corrected"]["method"].startswith("Rogan-Gladen per arm")
    (errors,) = found["sets"][0]["judge_errors"]
    assert errors["per_arm"] and [d["rate"] for d in errors["differing"]] == ["specificity"]
    printed = shard("compare", *folders, "--log-dir", results).output
    assert (
        "The judge errs differently on the two (harm): specificity 0.67" in printed and "corrected per arm." in printed
    )


def test_of_several_labelled_sets_the_largest_speaks_for_the_judge_whatever_its_file_is_called(store: Path) -> None:
    keep(store, "a-small", {"all": group((54, 60), (60, 60))})
    keep(store, "b-large", {"all": POOLED})
    errors = judge_errors.known(PROTOCOL, HARMFUL, ())
    assert errors is not None and errors.on == "b-large" and errors.candidate.rates.sensitivity.value == 0.75
