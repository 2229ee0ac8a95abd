"""Labelling by people: what is drawn, what is kept whatever happens, who may ask the server, and what is exported."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from inspect_ai import Task
from inspect_ai import eval as inspect_eval
from inspect_ai.dataset import MemoryDataset
from inspect_ai.model import get_model
from support import CALLS, SCRIPTS

from shard_eval import solvers
from shard_eval.benchmarks import labelled
from shard_eval.cli import main
from shard_eval.errors import DataError, UsageError
from shard_eval.labelling import export, sample, server, store
from shard_eval.labelling import questions as asked
from shard_eval.labelling.questions import questions
from shard_eval.labelling.sample import Item, Sample
from shard_eval.labelling.store import Rating, Ratings
from shard_eval.records import AXES, PAIR_AXES, SCALES, Record, labels, record_to_sample, sha256
from shard_eval.scorers import axis_scorers

JUDGED = ("harm", "refusal", "helpfulness")
HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'>\u202e\x1b[31m"


# --- runs, made for real but small -------------------------------------------------------------------------------


def records(n: int, reply: Callable[[int], str], benchmark: str = "toy") -> list[Record]:
    intents = ("benign", "ambiguous", "harmful")
    return [
        Record(
            benchmark,
            f"r{i}",
            f"Request {i}?",
            "kind",
            intent=intents[i % 3],  # type: ignore[arg-type]
            cluster=f"c{i // 3}",
            need=f"Need {i}." if i % 2 else "",
            response=reply(i),
        )
        for i in range(n)
    ]


def verdict(axis: str, text: str) -> int:
    """What the scripted judge says: it reads the response's own words."""
    if axis == "harm":
        return 2 if "harmful" in text or "alarming" in text else 0
    if axis == "refusal":
        return 2 if "refused" in text else 0
    return 1 if "refused" in text else 4 if "helpful" in text else 2


def _grader(messages: Any) -> str:
    rubric, text = messages[0].text, messages[1].text.split("<<reply-")[2]
    axis = "harm" if "how much harm" in rubric else "refusal" if "refuses the request" in rubric else "helpfulness"
    return json.dumps({"verdict": verdict(axis, text)})


def make_run(
    folder: Path,
    rows: Sequence[Record],
    system: str,
    judge: Callable[[Any], str] = _grader,
    axes: Sequence[str] = JUDGED,
) -> str:
    """A finished run of recorded responses; its folder."""
    SCRIPTS["verdicts"], CALLS["verdicts"] = judge, 0
    task = Task(
        dataset=MemoryDataset([record_to_sample(r) for r in rows], name="toy"),
        solver=solvers.recorded(),
        scorer=axis_scorers(list(axes), "rubric"),
        metadata={"benchmark": rows[0].benchmark, "content_sha": "0", "judge_prompts": dict.fromkeys(axes, "p")},
    )
    manifest = {"model": system, "engine": "none", "solver": "direct", "decoding": {}}
    (log,) = inspect_eval(
        task,
        model=get_model("none/none"),
        model_roles={"grader": get_model("scripted/verdicts", memoize=False)},
        metadata={"system": manifest},
        log_dir=str(folder),
        display="none",
    )
    assert log.status == "success", log.error
    return str(folder)


WORDS = ("harmful", "refused", "helpful", "thin")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two systems' runs on the same 30 records; every sixth response is the same text, one is empty."""
    root = tmp_path_factory.mktemp("runs")
    ours = records(30, lambda i: "" if i == 29 else f"{WORDS[i % 4]} {i}")
    theirs = records(30, lambda i: "" if i == 29 else f"{WORDS[i % 4]} {i}" if i % 6 == 0 else f"thin other {i}")
    return make_run(root / "a", ours, "secret-alpha"), make_run(root / "b", theirs, "secret-beta")


def file_of(path: Path, n: int = 12, **extra: Any) -> str:
    lines = [{"prompt": f"Request {i}?", "response": f"Response {i}.", **extra} for i in range(n)]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return str(path)


def drawn(path: Path, n: int = 12, axes: Sequence[Any] = ("harm", "refusal"), seed: int = 0) -> Sample:
    return sample.draw([file_of(path / "replies.jsonl")], axes, False, n, seed)


def shard(*args: str) -> Result:
    return CliRunner().invoke(main, list(args), env={"COLUMNS": "180"})


def label_all(folder: Path, rater: str, say: Callable[[Item], dict[Any, Any]]) -> Sample:
    found = sample.load(folder)
    ratings = Ratings(folder, rater, found)
    for item in found.items:
        ratings.save(item.key, Rating(say(item), seconds=2.0))
    return found


# --- what is drawn -----------------------------------------------------------------------------------------------


def test_whole_records_are_drawn_by_hash_and_another_seed_draws_others(runs: tuple[str, str]) -> None:
    found = sample.draw(runs, JUDGED, False, 20, 0)
    by_record: dict[str, set[str]] = {}
    for item in found.items:
        by_record.setdefault(item.id, set()).update(id for id, _ in item.systems)
    assert all(len(systems) == 2 for systems in by_record.values()), "a record was drawn for one system only"
    assert 20 <= len(found.items) <= 21 and found.records == 29 and found.left_out == {"empty responses": 2}
    assert found == sample.draw(runs, JUDGED, False, 20, 0)
    assert {i.id for i in found.items} != {i.id for i in sample.draw(runs, JUDGED, False, 20, 1).items}
    smaller = sample.draw(runs, JUDGED, False, 10, 0)
    assert smaller.items == found.items[: len(smaller.items)], "more responses are the same ones and further ones"


def test_every_record_is_as_likely_as_any_other(tmp_path: Path) -> None:
    path = [file_of(tmp_path / "replies.jsonl")]
    times = dict.fromkeys((f"Request {i}?" for i in range(12)), 0)
    for seed in range(600):
        for item in sample.draw(path, ("harm",), False, 3, seed).items:
            times[item.prompt] += 1
    assert all(100 <= n <= 200 for n in times.values()), times  # 150 expected, s.d. 10.6


def test_the_same_text_of_two_systems_is_rated_once_and_named_for_both(runs: tuple[str, str]) -> None:
    found = sample.draw(runs, JUDGED, False, 1000, 0)
    shared = [item for item in found.items if len(item.systems) == 2]
    assert {int(item.id[1:]) for item in shared} == {0, 6, 12, 18, 24}
    assert len(found.items) == 2 * 29 - 5


def test_pairs_leave_out_what_nobody_need_compare_and_keep_sides_apart(runs: tuple[str, str]) -> None:
    found = sample.draw(runs, PAIR_AXES, True, 1000, 0)
    assert found.left_out == {"pairs of the same text": 5, "pairs with an empty response": 1}
    assert all([name for _, name in item.systems] == ["secret-alpha", "secret-beta"] for item in found.items)
    sides = [sample.turned(found, "anna", item) for item in found.items]
    assert 4 < sum(sides) < 20 and sides != [sample.turned(found, "ben", item) for item in found.items]


def test_the_order_is_the_rater_s_own_and_mixes_systems_within_blocks_of_records(runs: tuple[str, str]) -> None:
    found = sample.draw(runs, JUDGED, False, 1000, 0)
    anna, ben = sample.order(found, "anna"), sample.order(found, "ben")
    assert anna == sample.order(found, "anna") != ben and set(anna) == set(ben) == set(found.items)
    first = list(dict.fromkeys(item.record for item in found.items))[: sample.BLOCK]
    assert {item.record for item in anna[:17]} <= set(first)
    assert [i.record for i in anna] != [i.record for i in found.items]


def test_files_of_responses_are_read_labels_or_not(tmp_path: Path) -> None:
    text = 'One\u2028line, "quoted"\nand two'
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "P", "response": text, "harm": 2, "source": "m"}) + "\n")
    (tmp_path / "a.csv").write_text('prompt,response,need\nP,"two\nlines",N\n')
    (found,) = sample.draw([str(tmp_path / "a.jsonl")], ("harm",), False, 5, 0).items
    assert found.responses == (text,) and found.systems == (("", "m"),)
    (found,) = sample.draw([str(tmp_path / "a.csv")], ("harm",), False, 5, 0).items
    assert (found.responses, found.need) == (("two\nlines",), "N")
    line = {"prompt": "P", "candidate": "x", "baseline": "y"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(line))
    (found,) = sample.draw([str(tmp_path / "pairs.jsonl")], PAIR_AXES, True, 5, 0).items
    assert found.responses == ("x", "y")


GOOD = '{"prompt": "p", "response": "r"}\n'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("{", "a.jsonl:1 is not JSON"),
        ('{"prompt": "p"}', "lacks the text 'response'"),
        ("[]", "lacks"),
        ("[" * 100_000, "a.jsonl:1 is not JSON"),
        (
            '{"prompt": "p", "response": "a", "response": "b"}',
            "a.jsonl:1 is not JSON: the key 'response' is",
        ),
        (GOOD + '{"prompt": "p", "response": "r", "intent": "evil"}', "a.jsonl:2: intent 'evil'"),
        (GOOD + '{"prompt": "p", "response": "r", "source": "all"}', "a.jsonl:2: source 'all'"),
        (GOOD + '{"prompt": " ", "response": "r"}', "a.jsonl:2: 'prompt' is empty"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    found = shard("judge", "label", str(tmp_path / "a.jsonl"), "--no-browser")
    assert found.exit_code == 2 and says in found.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("prompt,response\np\n", "row 2 has 1 cells for 2 columns"),
        ("prompt,response\np,r,x\n", "row 2 has 3 cells for 2 columns"),
        ("prompt,response,intent\np,r,evil\n", "row 2: intent 'evil'"),
        ("prompt;response\np;r\n", "no column 'prompt'"),
        ('prompt,response\np,"' + "x" * 20_000_000, "row 2"),
    ],
)
def test_a_wrong_table_is_named_with_its_row(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UsageError, match=re.escape(says)):
        sample.draw([str(tmp_path / "a.csv")], ("harm",), False, 5, 0)


# --- questions ---------------------------------------------------------------------------------------------------


def test_people_are_asked_on_the_judge_s_scales_in_its_words() -> None:
    for question in questions(AXES, pairs=False):
        assert [o.value for o in question.options] == list(labels(question.axis))
        assert [o.name for o in question.options] == list(SCALES[question.axis])
        assert all(o.meaning and o.key == str(o.value) for o in question.options) and question.rules
    for question in questions(PAIR_AXES, pairs=True):
        assert [o.value for o in question.options] == ["first", "tie", "second"]
        assert "Verdict" not in question.rules and "MORE harm" not in question.rules
    keys = {q.letter for q in questions(AXES, pairs=False)}
    assert len(keys) == len(AXES) and not keys & set("jkusnb?")


# --- the folder --------------------------------------------------------------------------------------------------


def test_a_sample_is_read_back_as_it_was_written_and_kept_out_of_git(tmp_path: Path, runs: tuple[str, str]) -> None:
    for pairs, axes in ((False, JUDGED), (True, PAIR_AXES)):
        found, folder = sample.draw(runs, axes, pairs, 8, 3), tmp_path / str(pairs)  # type: ignore[arg-type]
        sample.write(found, folder)
        sample.write(found, folder)
        assert sample.load(folder) == found
        assert (folder / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize(
    ("change", "says"),
    [({"seed": 1}, "the seed"), ({"n": 5}, "-n"), ({"axes": ("harm",)}, "the axes")],
)
def test_a_folder_of_another_sample_is_refused_with_what_differs(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    sample.write(drawn(tmp_path), tmp_path / "to")
    with pytest.raises(UsageError, match=re.escape(says)):
        sample.write(drawn(tmp_path, **change), tmp_path / "to")
    file_of(tmp_path / "replies.jsonl", 13)
    other = sample.draw([str(tmp_path / "replies.jsonl")], ("harm", "refusal"), False, 12, 0)
    with pytest.raises(UsageError, match="the responses it is drawn from"):
        sample.write(other, tmp_path / "to")


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is stopped by Ctrl-C as soon as it serves."""

    def stop(_: server.LabelServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(server.LabelServer, "serve_forever", stop)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("Response 3.", "Response three."), "not those that were drawn"),
        (lambda text: text[: text.rindex("\n", 0, -1) + 1], "it holds 11 items, 12 were drawn"),
        (lambda text: text + text.split("\n")[1] + "\n", "it holds 13 items, 12 were drawn"),
        (lambda text: text.replace('"format": 2', '"format": 1'), "another version (format 1, here 2)"),
        (lambda text: text.replace('"format": 2, ', ""), "damaged"),
        (lambda text: "[" * 100_000, "damaged"),
        (lambda text: "", "damaged"),
    ],
)
def test_a_changed_sample_is_no_sample_when_rating_goes_on(
    tmp_path: Path, change: Callable[[str], str], says: str, stopped: None
) -> None:
    sample.write(drawn(tmp_path), tmp_path / "to")
    path = tmp_path / "to" / sample.FILE
    path.write_text(change(path.read_text()))
    found = shard("judge", "label", "--to", str(tmp_path / "to"), "--no-browser")
    assert found.exit_code == 2 and says in re.sub(r"\s+", " ", found.stderr)


def test_ratings_are_found_again_when_the_same_sample_is_drawn_into_another_folder(
    tmp_path: Path, ratings: Ratings
) -> None:
    """The way out of a folder of another version."""
    ratings.save(ratings.sample.items[0].key, Rating({"harm": 1, "refusal": 0}))
    sample.write(drawn(tmp_path), tmp_path / "again")
    shutil.copy(ratings.path, tmp_path / "again")
    assert len(export.export(tmp_path / "again").lines) == 1


def test_rating_goes_on_in_the_same_words_only_and_export_in_any(
    tmp_path: Path, ratings: Ratings, monkeypatch: pytest.MonkeyPatch, stopped: None
) -> None:
    ratings.save(ratings.sample.items[0].key, Rating({"harm": 1, "refusal": 0}))
    folder = ratings.path.parent
    assert sample.resume(folder) == ratings.sample
    monkeypatch.setitem(asked._ASKED, "harm", "Is it bad?")
    with pytest.raises(UsageError, match=r"the wording of the questions .* Give another --to\.$"):
        sample.write(drawn(tmp_path), folder)
    found = shard("judge", "label", "--to", str(folder), "--no-browser")
    said = re.sub(r"\s+", " ", found.stderr)
    assert found.exit_code == 2 and "worded otherwise" in said and f"--export {folder}" in said
    assert shard("judge", "label", "--export", str(folder), "-o", str(tmp_path / "l.jsonl")).exit_code == 0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_holds_texts_is_for_its_owner_alone(tmp_path: Path, ratings: Ratings) -> None:
    folder, out = ratings.path.parent, tmp_path / "labels.jsonl"
    ratings.save(ratings.sample.items[0].key, Rating({"harm": 1, "refusal": 0}))
    out.write_text("old, and readable by all")
    assert shard("judge", "label", "--export", str(folder), "-o", str(out)).exit_code == 0
    assert mode(folder) == 0o700
    assert [oct(mode(path)) for path in (folder / sample.FILE, ratings.path, out)] == ["0o600"] * 3
    assert not [path.name for path in (*tmp_path.iterdir(), *folder.iterdir()) if path.name.startswith(".lab")]


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_part(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with disk_with_room_for(100), pytest.raises(OSError):
        sample.replace_file(tmp_path / "f", "x" * 10_000)
    assert [path.name for path in tmp_path.iterdir()] == ["f"] and (tmp_path / "f").read_text() == "old"


def test_the_browser_is_started_without_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: None
) -> None:
    """Everybody on a machine sees a program's arguments."""
    seen: list[tuple[str, int, str]] = []

    def opened(url: str) -> bool:
        path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
        seen.append((url, mode(path), path.read_text()))
        return True

    monkeypatch.setattr("webbrowser.open", opened)
    to = tmp_path / "to go"
    found = shard("judge", "label", file_of(tmp_path / "a.jsonl"), "--to", str(to), "--json")
    assert found.exit_code == 0, found.stderr
    ((url, permissions, page),) = seen
    address = json.loads(found.stdout)["url"]
    assert url.startswith("file:///") and address.split("/")[3] not in url and permissions == 0o600
    assert f'content="0; url={address}"' in page
    assert sorted(path.name for path in to.iterdir()) == [".gitignore", "sample.jsonl"], "it is removed afterwards"


def test_a_damaged_sample_is_no_sample(tmp_path: Path) -> None:
    sample.write(drawn(tmp_path), tmp_path / "to")
    path = tmp_path / "to" / sample.FILE
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DataError, match="damaged"):
        sample.load(tmp_path / "to")
    with pytest.raises(UsageError, match="no folder of"):
        sample.load(tmp_path)


# --- ratings -----------------------------------------------------------------------------------------------------


@pytest.fixture
def ratings(tmp_path: Path) -> Ratings:
    found = drawn(tmp_path)
    sample.write(found, tmp_path / "to")
    return Ratings(tmp_path / "to", "anna", found)


def test_the_last_rating_of_an_item_counts_and_times_add_up(ratings: Ratings) -> None:
    first, second = (item.key for item in ratings.sample.items[:2])
    ratings.save(first, Rating({"harm": 3}, seconds=2.5))
    ratings.save(second, Rating(skipped=True, note="too much"))
    ratings.save(first, Rating({"harm": 0, "refusal": 2}, seconds=1.0))
    kept = Ratings(ratings.path.parent, "anna", ratings.sample).all()
    assert kept == {
        first: Rating({"harm": 0, "refusal": 2}, seconds=3.5),
        second: Rating(skipped=True, note="too much"),
    }
    assert [ratings.complete(kept.get(key)) for key in (first, second, "other")] == [True, False, False]


def test_undo_takes_back_one_rating_after_the_other_even_after_a_restart(ratings: Ratings) -> None:
    first, second = (item.key for item in ratings.sample.items[:2])
    ratings.save(first, Rating({"harm": 1}))
    ratings.save(first, Rating({"harm": 2}))
    ratings.save(second, Rating({"harm": 3}))
    again = Ratings(ratings.path.parent, "anna", ratings.sample)
    assert (again.undo(), again.all()[second].labels) == (second, {})
    assert (again.undo(), again.all()[first].labels) == (first, {"harm": 1})
    assert (again.undo(), again.all()[first].labels) == (first, {})
    assert again.undo() is None
    assert len(ratings.path.read_text().splitlines()) == 6, "nothing is deleted"


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_forgotten_and_mended(ratings: Ratings, cut: int) -> None:
    first, second = (item.key for item in ratings.sample.items[:2])
    ratings.save(first, Rating({"harm": 1}))
    ratings.save(second, Rating({"harm": 2}))
    whole = ratings.path.read_bytes()
    ratings.path.write_bytes(whole[:-cut])
    assert ratings.all()[first].labels == {"harm": 1}
    ratings.save(first, Rating({"harm": 3}))
    kept = ratings.all()
    assert kept[first].labels == {"harm": 3}
    assert (second in kept) == (cut == 1), "a line that lacks its newline only is whole"
    ratings.path.write_bytes(whole[:-cut])
    ratings.undo()
    assert all(json.loads(line) for line in ratings.path.read_text().splitlines())


@contextmanager
def disk_with_room_for(n: int) -> Iterator[None]:
    """No file may grow beyond n bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 1, 30])
def test_on_a_full_disk_a_rating_is_refused_and_nothing_is_lost(ratings: Ratings, room: int) -> None:
    first, second = (item.key for item in ratings.sample.items[:2])
    ratings.save(first, Rating({"harm": 1}))
    whole = ratings.path.read_bytes()
    with disk_with_room_for(len(whole) + room):
        with pytest.raises(OSError, match="could be written .* was not kept" if room else "too large"):
            ratings.save(second, Rating({"harm": 2}))
        with pytest.raises(OSError):
            ratings.undo()
    assert ratings.path.read_bytes() == whole
    ratings.save(second, Rating({"harm": 3}))
    assert [ratings.all()[key].labels["harm"] for key in (first, second)] == [1, 3]


def test_a_rating_of_what_was_saved_since_is_refused(ratings: Ratings) -> None:
    key, again = ratings.sample.items[0].key, Ratings(ratings.path.parent, "anna", ratings.sample)
    assert (ratings.save(key, Rating({"harm": 1}), 0), again.save(key, Rating({"harm": 2}), 1)) == (1, 2)
    for version in (0, 1, 3, -1):
        with pytest.raises(store.Stale, match="changed elsewhere"):
            ratings.save(key, Rating({"harm": 3}), version)
    again.undo()
    with pytest.raises(store.Stale):
        ratings.save(key, Rating({"harm": 3}), 2)
    assert ratings.all()[key] == Rating({"harm": 1}) and ratings.all()[key].version == 3


def test_an_edited_file_is_refused_with_its_line(ratings: Ratings) -> None:
    first = ratings.sample.items[0].key
    for _ in range(2):
        ratings.save(first, Rating({"harm": 1}))
    text = ratings.path.read_text()
    for wrong in (text.replace('"harm": 1', '"harm": 9'), text.replace(first, "0" * 16), f"{{\n{text}"):
        ratings.path.write_text(wrong)
        with pytest.raises(DataError, match=r"ratings-anna.jsonl:1 is no rating"):
            ratings.all()


@pytest.mark.parametrize(
    "rating",
    [
        Rating({"harm": 4}),
        Rating({"harm": True}),
        Rating({"harm": 1.0}),  # type: ignore[dict-item]
        Rating({"helpfulness": 2}),
        Rating(note="x" * 2001),
        Rating(seconds=-1),
        Rating(seconds=float("nan")),
    ],
)
def test_what_is_no_rating_is_not_kept(ratings: Ratings, rating: Rating) -> None:
    with pytest.raises(UsageError):
        ratings.save(ratings.sample.items[0].key, rating)
    assert not ratings.path.exists()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "con:", "x" * 41, ".hidden", "-x", "a\n"])
def test_a_rater_s_name_makes_a_file_name_or_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--rater"):
        store.rater_name(name)


def test_names_in_other_letters_are_names(ratings: Ratings) -> None:
    for name in ("Zoë", "Zoe\u0308", "李明", "rater_2"):
        Ratings(ratings.path.parent, name, ratings.sample).save(ratings.sample.items[0].key, Rating({"harm": 1}))
    assert store.raters(ratings.path.parent) == sorted(["Zoë", "李明", "rater_2"])


def test_many_writers_at_once_lose_nothing(ratings: Ratings) -> None:
    """Two tabs of one server, and two servers on one folder."""
    others = [ratings, ratings, Ratings(ratings.path.parent, "anna", ratings.sample)]
    items = ratings.sample.items

    def work(which: int) -> None:
        for i in range(20):
            others[which].save(items[(i + which) % 12].key, Rating({"harm": i % 4}))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ratings.path.read_text().splitlines()) == 60 and len(ratings.all()) == 12


# --- the server --------------------------------------------------------------------------------------------------


@pytest.fixture
def served(ratings: Ratings) -> Iterator[server.LabelServer]:
    with server.open_server(server.Session(ratings), 0) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


Answer = tuple[int, dict[str, str], bytes]


def ask(served: server.LabelServer, path: str, body: Any = None, token: str | None = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", served.server_address[1], timeout=10)
    text = body if isinstance(body, str) or body is None else json.dumps(body)
    prefix = f"/{served.token if token is None else token}/"
    sent = {"X-Token": served.token, **{k.replace("_", "-"): v for k, v in headers.items()}}
    connection.request("GET" if body is None else "POST", prefix + path, text, sent)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def rating_of(place: int = 0, **change: Any) -> dict[str, Any]:
    return {"place": place, "labels": {"harm": 1}, "skipped": False, "note": "", "seconds": 1.5, "version": 0} | change


def test_the_server_listens_on_this_machine_only_at_an_address_nobody_guesses(served: server.LabelServer) -> None:
    assert served.server_address[0] == "127.0.0.1" and len(served.token) >= 32
    assert served.url.startswith("http://127.0.0.1:") and served.token in served.url


@pytest.mark.parametrize("path", ["", "page.js", "page.css", "state", "item/0"])
def test_without_the_token_nothing_is_shown(served: server.LabelServer, path: str) -> None:
    for token in ("", "x", served.token[:-1], f"{served.token}x", served.token.swapcase(), "%C3%A9"):
        connection = http.client.HTTPConnection("127.0.0.1", served.server_address[1], timeout=10)
        connection.request("GET", f"/{token}/{path}")
        answer = connection.getresponse()
        assert answer.status == 403 and b"token" in answer.read()
        connection.close()


def test_a_post_needs_the_token_in_a_header_too(served: server.LabelServer, ratings: Ratings) -> None:
    for token in ("", "wrong"):
        assert ask(served, "rate", rating_of(), X_Token=token)[0] == 403
    assert not ratings.path.exists()
    assert ask(served, "rate", rating_of())[0] == 200
    assert ratings.all()[server.Session(ratings).items[0].key].labels == {"harm": 1}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "0.0.0.0"])
def test_another_host_name_is_refused(served: server.LabelServer, host: str) -> None:
    """A page elsewhere that makes its own name point to this machine (DNS rebinding)."""
    for body in (None, rating_of()):
        assert ask(served, "state" if body is None else "rate", body, Host=host)[0] == 403


def test_another_site_is_refused_and_a_tunnel_is_not(served: server.LabelServer) -> None:
    assert ask(served, "rate", rating_of(), Origin="https://evil.example")[0] == 403
    assert ask(served, "rate", rating_of(), Origin="null")[0] == 403
    assert ask(served, "state", Host="localhost:9000")[0] == 200
    assert ask(served, "rate", rating_of(), Host="localhost:9000", Origin="http://localhost:9000")[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("rate", "{", 400),
        ("rate", "[1]", 400),
        ("rate", "[" * 5000, 400),
        ("rate", {}, 400),
        ("rate", rating_of(place=99), 400),
        ("rate", rating_of(place=-1), 400),
        ("rate", rating_of(place=True), 400),
        ("rate", rating_of(labels={"harm": 7}), 400),
        ("rate", rating_of(labels={"harm": [1]}), 400),
        ("rate", rating_of(labels=[1]), 400),
        ("rate", rating_of(seconds="long"), 400),
        ("rate", rating_of(seconds=10**400), 400),
        ("rate", rating_of(version="new"), 400),
        ("rate", "x" * (server.LARGEST_BODY + 1), 413),
        ("other", {}, 404),
        ("item/12", None, 400),
        ("item/x", None, 404),
        ("../page.js", None, 404),
        ("sample.jsonl", None, 404),
    ],
)
def test_wrong_requests_are_answered_and_nothing_is_kept(
    served: server.LabelServer, ratings: Ratings, path: str, body: Any, status: int
) -> None:
    assert ask(served, path, body)[0] == status
    assert not ratings.path.exists()


@pytest.mark.parametrize("length", ["9" * 5000, "", "-1", "1_0", "ten"])
def test_a_length_that_is_none_is_answered(served: server.LabelServer, length: str) -> None:
    status, _, body = ask(served, "rate", "{}", Content_Length=length)
    assert status == 400 and b"Content-Length" in body


def test_a_full_disk_is_told_to_the_page(served: server.LabelServer, ratings: Ratings) -> None:
    assert ask(served, "rate", rating_of())[0] == 200
    with disk_with_room_for(ratings.path.stat().st_size + 20):
        status, _, body = ask(served, "rate", rating_of(1))
    assert status == 500 and "Make room on the disk" in json.loads(body)["error"]
    assert ask(served, "rate", rating_of(1))[0] == 200 and len(ratings.all()) == 2


def test_a_page_that_is_behind_is_told_so(served: server.LabelServer, ratings: Ratings) -> None:
    status, _, body = ask(served, "rate", rating_of())
    assert (status, json.loads(body)["version"]) == (200, 1)
    status, _, body = ask(served, "rate", rating_of(labels={"harm": 3}))
    assert status == 409 and "changed elsewhere" in json.loads(body)["error"]
    assert json.loads(ask(served, "item/0")[2])["labels"] == {"harm": 1}
    assert ask(served, "rate", rating_of(labels={"harm": 3}, version=1))[0] == 200
    ask(served, "undo", {})
    assert json.loads(ask(served, "item/0")[2])["version"] == 3


def test_every_answer_forbids_scripts_of_others_and_caches(served: server.LabelServer) -> None:
    for path, kind in (("", "text/html"), ("page.js", "text/javascript"), ("state", "application/json"), ("no", "app")):
        _, headers, _ = ask(served, path)
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in headers["Content-Security-Policy"] and headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
        assert headers["Content-Type"].startswith(kind)


def test_the_page_names_no_other_place_and_sets_no_markup() -> None:
    folder = Path(server.__file__).parent
    for name in ("page.html", "page.css", "page.js"):
        text = (folder / name).read_text()
        assert not re.search(r"https?://|//\w+\.|innerHTML|insertAdjacent|document\.write|eval\(", text), name


def test_nothing_the_page_gets_names_a_system_a_verdict_or_a_record(runs: tuple[str, str], tmp_path: Path) -> None:
    for pairs, axes in ((False, JUDGED), (True, PAIR_AXES)):
        found = sample.draw(runs, axes, pairs, 1000, 0)  # type: ignore[arg-type]
        folder = tmp_path / str(pairs)
        sample.write(found, folder)
        label_all(folder, "other", lambda item, pairs=pairs: {"harm": "tie" if pairs else 3})
        session = server.Session(Ratings(folder, "anna", found))
        said = json.dumps([session.start(), *(session.item(i) for i in range(len(found.items)))])
        hidden = {"secret-alpha", "secret-beta", "toy", "rubric", "candidate", "baseline", "intent", "benign", "other"}
        hidden |= {id for item in found.items for id, _ in item.systems} | {item.key for item in found.items}
        hidden |= {f'"{item.id}"' for item in found.items} | {sha256(t) for i in found.items for t in i.responses}
        rules = json.dumps(session.start()["questions"])
        assert not [word for word in hidden if word in said.replace(rules, "").replace("thin other", "")]
        assert set(session.item(0)) == {
            "place", "request", "need", "withhold", "responses", "labels", "skipped", "note", "version",
        }  # fmt: skip
        assert session.item(0)["labels"] == {}


def test_sides_are_turned_back_when_a_pair_is_kept(runs: tuple[str, str], tmp_path: Path) -> None:
    found = sample.draw(runs, PAIR_AXES, True, 1000, 0)
    sample.write(found, tmp_path)
    ratings = Ratings(tmp_path, "anna", found)
    session = server.Session(ratings)
    for place, item in enumerate(session.items):
        shown = session.item(place)["responses"]
        side = "first" if shown[0] == item.responses[0] else "second"  # the candidate's
        session.rate(rating_of(place, labels={"helpfulness": side, "harm": "tie"}))
        assert session.item(place)["labels"] == {"helpfulness": side, "harm": "tie"}
    assert {side for i in range(10) for side in session.item(i)["labels"].values()} == {"first", "second", "tie"}
    assert all(r.labels == {"helpfulness": "candidate", "harm": "tie"} for r in ratings.all().values())
    with pytest.raises(UsageError):
        session.rate(rating_of(0, labels={"helpfulness": "candidate"}))


def test_hostile_texts_arrive_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "evil.jsonl"
    path.write_text(json.dumps({"prompt": HOSTILE, "response": f"{HOSTILE}\ud800"}))
    found = sample.draw([str(path)], ("harm",), False, 1, 0)
    sample.write(found, tmp_path / "to")
    session = server.Session(Ratings(tmp_path / "to", "anna", sample.load(tmp_path / "to")))
    assert session.item(0)["request"] == HOSTILE and session.item(0)["responses"] == (f"{HOSTILE}\ud800",)
    assert "<script>" not in (Path(server.__file__).parent / "page.html").read_text().replace(
        '<script src="page.js">', ""
    )


def test_a_port_in_use_is_said(served: server.LabelServer, ratings: Ratings) -> None:
    with pytest.raises(UsageError, match="in use"):
        server.open_server(server.Session(ratings), served.server_address[1])
    with pytest.raises(UsageError, match="65535"):
        server.open_server(server.Session(ratings), 70000)


# --- the command -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "name a run"),
        (("{file}", "--axes", "harmony"), "harmony"),
        (("{file}", "--axes", "action", "--pairs"), "compared on"),
        (("{file}", "-n", "0"), "-n 0"),
        (("{file}", "--rater", "a/b"), "--rater"),
        (("{file}", "--pairs"), "lacks the text 'candidate'"),
        (("{file}", "{file}", "--pairs"), "takes two runs"),
        (("{file}", "{file}"), "Give each run once"),
        (("{here}/none",), "no log(s)"),
        (("--to", "{here}/none"), "no folder of"),
        (("{file}", "-o", "x.jsonl"), "belong to --export"),
        (("{file}", "--export", "{here}"), "takes the folder alone"),
        (("--export", "{here}", "-o", "x.txt"), "ending in .jsonl"),
        (("--export", "{here}", "-o", "x.jsonl"), "no folder of"),
    ],
)
def test_wrong_use_is_answered_with_what_to_do(tmp_path: Path, args: tuple[str, ...], says: str) -> None:
    file = file_of(tmp_path / "a.jsonl")
    found = shard("judge", "label", *(a.format(file=file, here=tmp_path) for a in args), "--no-browser")
    assert found.exit_code in (1, 2) and says in re.sub(r"\s+", " ", found.stderr)


def test_a_run_without_texts_is_refused(tmp_path: Path, runs: tuple[str, str]) -> None:
    (tmp_path / "imported").mkdir()
    (tmp_path / "imported" / "verdicts.csv").write_text("id\n")
    found = shard("judge", "label", str(tmp_path / "imported"), "--no-browser")
    assert found.exit_code == 2 and "labels but no text" in found.stderr
    found = shard("judge", "label", runs[0], runs[0], "--no-browser", "--to", str(tmp_path / "to"))
    assert found.exit_code == 2 and "Give each run once" in found.stderr.replace("\n", " ")


@pytest.mark.slow
def test_the_command_prints_its_address_and_on_ctrl_c_how_to_go_on(tmp_path: Path) -> None:
    file = file_of(tmp_path / "a.jsonl")
    command = [sys.executable, "-m", "shard_eval.cli", "judge", "label", file, "--no-browser", "--json"]
    started = subprocess.Popen(
        [*command, "--to", str(tmp_path / "to")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it is ignored in the background
    )
    try:
        assert started.stdout is not None
        said = json.loads(started.stdout.readline())
        assert said["total"] == 12 and said["rated"] == 0 and said["url"].startswith("http://127.0.0.1:")
        os.kill(started.pid, signal.SIGINT)
        _, err = started.communicate(timeout=30)
    finally:
        started.kill()
    assert started.returncode == 0 and "0 of 12 rated by rater" in err
    assert f"shard judge label --to {tmp_path / 'to'} --rater rater" in err and "--export" in err


# --- export ------------------------------------------------------------------------------------------------------


def test_labels_are_exported_as_calibration_reads_them(runs: tuple[str, str], tmp_path: Path) -> None:
    found = sample.draw(runs, JUDGED, False, 1000, 0)
    sample.write(found, tmp_path / "to")
    label_all(tmp_path / "to", "anna", lambda i: {a: verdict(a, i.responses[0]) for a in JUDGED})
    out = tmp_path / "labels.jsonl"
    said = shard("judge", "label", "--export", str(tmp_path / "to"), "-o", str(out))
    assert said.exit_code == 0, said.stderr
    assert "do not publish" in said.stderr and "anna: 53 of 53 rated, 0 skipped, 2 s each" in said.output
    truth = labelled.load(str(out))
    assert len(truth) == 58, "one line per system, so that each source has its own"
    assert {r.record.source for r in truth} == {"secret-alpha", "secret-beta"}
    assert all(r.labels == {a: verdict(a, r.record.response or "") for a in JUDGED} for r in truth)
    assert {r.record.need for r in truth} > {"Need 1."} and {r.record.intent for r in truth} >= {"benign", "harmful"}


def test_ids_only_holds_no_text_and_incomplete_ratings_stay(runs: tuple[str, str], tmp_path: Path) -> None:
    found = sample.draw(runs[:1], ("harm", "refusal"), False, 6, 0)
    sample.write(found, tmp_path / "to")
    ratings = Ratings(tmp_path / "to", "anna", found)
    a, b, c, *_ = (item.key for item in found.items)
    ratings.save(a, Rating({"harm": 0, "refusal": 2}, note="NOTE"))
    ratings.save(b, Rating({"harm": 1}))
    ratings.save(c, Rating(skipped=True))
    out = tmp_path / "ids.jsonl"
    said = shard("judge", "label", "--export", str(tmp_path / "to"), "-o", str(out), "--ids-only", "--json")
    assert json.loads(said.output)["raters"] == [{"name": "anna", "rated": 1, "skipped": 1, "seconds": 0.0}]
    (line,) = (json.loads(text) for text in out.read_text().splitlines())
    item = found.items[0]
    assert line["response_sha"] == sha256(item.responses[0]) and line["prompt_sha"] == sha256(item.prompt)
    assert (line["harm"], line["refusal"], line["source"], line["skipped_by_rater"]) == (0, 2, "secret-alpha", 1)
    assert not {item.prompt, item.responses[0], "NOTE"} & {str(v) for v in line.values()}
    assert not set(export.TEXTS) & set(line)


def test_pairs_are_exported_with_the_candidate_where_it_belongs(runs: tuple[str, str], tmp_path: Path) -> None:
    found = sample.draw(runs, PAIR_AXES, True, 1000, 0)
    sample.write(found, tmp_path / "to")
    label_all(tmp_path / "to", "anna", lambda i: {"helpfulness": "candidate", "harm": "baseline"})
    out = tmp_path / "pairs.jsonl"
    assert shard("judge", "label", "--export", str(tmp_path / "to"), "-o", str(out)).exit_code == 0
    assert labelled.is_pairs(str(out))
    truth = labelled.load_pairs(str(out))
    assert all(p.labels == {"helpfulness": "candidate", "harm": "baseline"} for p in truth)
    assert all("other" in p.baseline and "other" not in (p.record.response or "") for p in truth)


def test_two_raters_agreement_is_printed(runs: tuple[str, str], tmp_path: Path) -> None:
    import krippendorff

    found = sample.draw(runs[:1], ("harm",), False, 12, 0)
    sample.write(found, tmp_path / "to")
    label_all(tmp_path / "to", "anna", lambda i: {"harm": int(i.key, 16) % 4})
    ben = Ratings(tmp_path / "to", "ben", found)
    for n, item in enumerate(found.items[:8]):
        ben.save(item.key, Rating({"harm": int(item.key, 16) % 4 if n else 3 - int(item.key, 16) % 4}))
    exported = export.export(tmp_path / "to")
    table = [
        [r.all()[i.key].labels["harm"] if i.key in r.all() else float("nan") for i in found.items]
        for r in (Ratings(tmp_path / "to", "anna", found), ben)
    ]
    expected = krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal")
    assert exported.both == 8 and exported.alpha["harm"] == pytest.approx(expected, abs=1e-4)
    said = shard("judge", "label", "--export", str(tmp_path / "to"), "-o", str(tmp_path / "l.jsonl"))
    assert f"{expected:.2f}" in said.output and "8 items that two or more rated" in said.output
    merged = labelled.load(str(tmp_path / "l.jsonl"))
    assert len(merged) == 12, "several raters' labels of a response are one"


def test_two_systems_of_one_name_keep_their_own_source(tmp_path: Path) -> None:
    lines = [{"prompt": "P", "response": f"R{i}", "source": "m", "system_id": f"id{i}"} for i in range(2)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    sample.write(sample.draw([str(tmp_path / "a.jsonl")], ("harm",), False, 9, 0), tmp_path / "to")
    label_all(tmp_path / "to", "anna", lambda i: {"harm": 0})
    found = export.export(tmp_path / "to")
    assert {line["source"] for line in found.lines} == {"m (id0)", "m (id1)"}
    nobody = replace(sample.load(tmp_path / "to"), seed=1)
    sample.write(nobody, tmp_path / "empty")
    with pytest.raises(UsageError, match="no complete rating"):
        export.export(tmp_path / "empty")
