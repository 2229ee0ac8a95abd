"""The re-analysis of the published tables: the page is what the command gives, and the arithmetic is right."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import ModuleType

import pytest
from scipy import stats
from support import ROOT

SCRIPT = ROOT / "docs" / "reanalysis" / "reanalyse.py"


@pytest.fixture(scope="module")
def again() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reanalyse", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reanalyse"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def find(again: ModuleType, table: str, system: str, model: str, benchmark: str):  # type: ignore[no-untyped-def]
    (cell,) = [c for c in again.load() if c.name == (table, system, model, benchmark)]
    return cell


def test_the_page_is_what_the_command_gives(again: ModuleType) -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (SCRIPT.parent / "README.md").read_text(encoding="utf-8")


def test_there_are_as_many_comparisons_as_published(again: ModuleType) -> None:
    starred = [c for c in again.load() if c.starred is not None]
    sizes = {f: sum(c.family == f for c in starred) for f in {c.family for c in starred}}
    assert sizes == {"Table 1": 28, "Figure 3": 14, "Figure 4": 14, "Figures 7, 8": 14, "Table 3": 9, "Table 4": 20}
    assert len({c.name for c in again.load()}) == len(again.load())


def test_the_percentages_make_sense(again: ModuleType) -> None:
    for cell in again.load():
        assert 0 <= cell.win + cell.lose <= 100.1 and cell.n > 0
    levels = [c.n for c in again.load() if "level" in c.benchmark]
    assert sum(levels) == 3267 == sum(c.n for c in again.load() if c.models > 1) - sum(levels)


def test_two_figures_that_were_worked_out_by_hand_before(again: ModuleType) -> None:
    # Mistral-7B against HHTune, 29.2 to 60.9 of about 161; Mistral-24B on LinguaSafe, 41.0 to 35.4 of 3,267.
    one = again.tested(find(again, "Figure 4a", "SHARD against HHTune", "Mistral-7B", "held-out"))
    assert (one.wins, one.losses) == (47, 98) and one.test.p == pytest.approx(stats.binomtest(47, 145).pvalue)
    two = again.tested(find(again, "Table 1", "SHARD", "Mistral-24B", "LinguaSafe"))
    assert (two.wins, two.losses) == (1339, 1157) and round(two.test.p, 4) == 0.0003
    three = again.tested(find(again, "Table 16", "SHARD", "Mistral-7B", "LinguaSafe"))
    assert (three.wins, three.losses) == (16, 291) and three.test.p < 1e-65


@pytest.mark.parametrize(
    ("percent", "total", "counts"),
    # 36.95 to 37.05 % of 939 is 346.96 to 347.9; of 3,267 it is 1207.2 to 1210.4; no count of 161 is printed as 50.0.
    [(37.0, 939, (347, 347, 347)), (37.0, 3267, (1208, 1209, 1210)), (50.0, 161, (80, 80, 80)), (0.0, 939, (0, 0, 0))],
)
def test_counts_that_are_printed_as_a_percentage(
    again: ModuleType, percent: float, total: int, counts: tuple[int, int, int]
) -> None:
    assert again.possible(percent, total) == counts


def test_the_rounding_range_holds_the_p_of_every_possible_count(again: ModuleType) -> None:
    cell = find(again, "Table 1", "Benign Intent", "Phi-4", "LinguaSafe")
    found = again.tested(cell)
    (w0, _, w1), (l0, _, l1) = again.possible(cell.win, cell.n), again.possible(cell.lose, cell.n)
    every = [stats.binomtest(w, w + x).pvalue for w in range(w0, w1 + 1) for x in range(l0, l1 + 1)]
    assert len(every) > 4
    assert found.least <= min(every) * (1 + 1e-9) and found.most >= max(every) * (1 - 1e-9)


def test_an_average_over_models_counts_once_per_prompt_or_once_per_answer(again: ModuleType) -> None:
    cell = find(again, "Table 3", "SHARD", "7 models", "LinguaSafe, Fairness")
    assert (again.tested(cell).total, again.tested(cell, each_model_votes=True).total) == (328, 7 * 328)
    assert again.tested(cell).test.p > 0.05 > again.tested(cell, each_model_votes=True).test.p


def test_the_readings_of_harm_are_mirror_images(again: ModuleType) -> None:
    cell = find(again, "Table 11", "SHARD, self", "Mistral-24B", "held-out")
    t = again.tested(cell)
    assert again.bound(t, 1) == t.test.low > 0 and again.bound(t, -1) == -t.test.high < -0.03
