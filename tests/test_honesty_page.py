"""The page on what goes wrong: it is what the command gives, and says what its text says it does."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import ROOT

SCRIPT = ROOT / "docs" / "honesty" / "simulate.py"
PAGE = SCRIPT.parent / "README.md"


def number(row: str, column: int) -> float:
    """The number of a table's cell, without its Monte-Carlo error."""
    (line,) = [x for x in PAGE.read_text(encoding="utf-8").splitlines() if x.startswith(f"| {row} |")]
    return float(line.split("|")[column + 1].split()[0].replace("−", "-"))


@pytest.mark.slow
def test_the_page_is_what_the_command_gives() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, encoding="utf-8", timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout == PAGE.read_text(encoding="utf-8")


def test_a_model_like_its_baseline_wins_on_the_filtered_set_and_not_on_ours() -> None:
    row = "no effect, answers vary"
    assert number(row, 2) > 10
    assert abs(number(row, 3)) < 1 and abs(number(row, 5)) < 1
    assert number(row, 6) > 40 and number(row, 7) < 2.5


def test_ties_do_not_show_that_harm_tripled() -> None:
    assert number("1 to 3", 2) > 99 and number("1 to 3", 3) < 2.5 + 3 * 1.1
    assert number("1 to 1", 3) > 90 and number("1 to 6", 5) > 90
