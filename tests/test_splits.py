"""Splits: fixed by the prompts alone, nothing related is torn apart, and leaks are found."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations, pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shard_eval.errors import UsageError
from shard_eval.records import Record
from shard_eval.splits import FRACTIONS, NEAR_DUPLICATE, _near_pairs, assign_splits, find_leaks, normalise

WORDS = ["how", "can", "I", "bake", "bread", "fix", "a", "tyre", "in", "Rome"]


def record(id: int | str, prompt: str, category: str = "", cluster: str = "", split: str = "") -> Record:
    return Record("toy", str(id), prompt, category=category, cluster=cluster, split=split)


def splits(records: list[Record]) -> dict[str, str]:
    return {r.id: r.split for r in assign_splits(records)}


texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
clusters = st.sampled_from(["", "", "", "a", "b"])


@st.composite
def sets(draw: st.DrawFn) -> list[Record]:
    """Toy records with near-duplicates and clusters; a prompt's category is its first word."""
    rows = draw(st.lists(st.tuples(texts, clusters), max_size=25))
    return [record(i, text, text.split()[0], cluster) for i, (text, cluster) in enumerate(rows)]


@given(sets(), st.randoms(use_true_random=False))
def test_the_order_of_the_records_does_not_matter(records: list[Record], rng: random.Random) -> None:
    other = records.copy()
    rng.shuffle(other)
    assert splits(records) == splits(other)


def test_the_order_does_not_matter_when_one_text_is_in_two_categories() -> None:
    others = [record(f"{c}{i}", f"{c}{i} p{i}", c) for c, n in (("x", 9), ("y", 3)) for i in range(n)]
    records = [record("a", "same text", "x"), record("b", "same text", "y"), *others]
    found = []
    for seed in range(10):
        random.Random(seed).shuffle(records)
        found.append(splits(records))
    assert all(assignment == found[0] for assignment in found)


@given(sets())
def test_every_record_gets_one_split_and_keeps_everything_else(records: list[Record]) -> None:
    found = assign_splits(records)
    assert [(r.key, r.category, r.cluster) for r in found] == [(r.key, r.category, r.cluster) for r in records]
    assert {r.split for r in found} <= set(FRACTIONS)


@given(sets())
def test_clusters_and_near_duplicates_stay_together(records: list[Record]) -> None:
    found = assign_splits(records)
    for a, b in combinations(found, 2):
        if (a.cluster and a.cluster == b.cluster) or jaccard(a.prompt, b.prompt) >= NEAR_DUPLICATE:
            assert a.split == b.split


def test_nothing_leaks_between_the_assigned_splits() -> None:
    # Four wordings of each of 60 requests, two of them nearly the same.
    records = [
        record(f"{i}-{j}", f"request {i} for the {i * 7} th loaf of bread with {i} seeds and {i + 1} nuts {tail}")
        for i in range(60)
        for j, tail in enumerate(["", "!", "now", "???"])
    ]
    found = assign_splits(records)
    parts = {name: [r for r in found if r.split == name] for name in FRACTIONS}
    assert all(parts.values())
    assert all(find_leaks(parts[a], parts[b]) == [] for a, b in combinations(FRACTIONS, 2))


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from("pqrs"), st.integers(1, 60), min_size=1))
@example({"p": 200})
def test_every_category_is_divided_in_the_stated_shares(sizes: dict[str, int]) -> None:
    # Prompts without a word in common, so that every group is one record: off by less than one record per border.
    records = [record(f"{c}{i}", f"{c}{i}a {c}{i}b {c}{i}c", c) for c, n in sizes.items() for i in range(n)]
    found = assign_splits(records)
    for category, size in sizes.items():
        count = Counter(r.split for r in found if r.category == category)
        assert all(abs(count[name] - share * size) <= 1 for name, share in FRACTIONS.items())


def test_other_fractions_are_kept_to() -> None:
    records = [record(i, f"{i}a {i}b {i}c") for i in range(100)]
    count = Counter(r.split for r in assign_splits(records, {"left": 0.3, "right": 0.7}))
    assert count == {"left": 30, "right": 70}


def test_a_split_of_the_benchmarks_own_is_kept() -> None:
    records = [record(i, f"{i}a {i}b {i}c", split="held-out" if i % 2 else "") for i in range(20)]
    found = assign_splits(records)
    assert {r.split for r in found if int(r.id) % 2} == {"held-out"}
    assert {r.split for r in found if not int(r.id) % 2} <= set(FRACTIONS)


def test_a_near_duplicate_follows_the_split_that_is_already_there() -> None:
    old, new = assign_splits([record("a", "how can I bake bread", split="test"), record("b", "How can I bake bread?")])
    assert new.split == old.split == "test"


@pytest.mark.parametrize("fractions", [{"train": 0.5}, {"train": 0.7, "test": 0.4}])
def test_fractions_that_do_not_sum_to_one_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="sum to 1"):
        assign_splits([record(1, "x")], fractions)


def test_no_records_are_no_error() -> None:
    assert assign_splits([]) == []


# --- near-duplicates -------------------------------------------------------------------------------------------


def shingles(text: str) -> set[tuple[str, ...]]:
    words = normalise(text).split()
    return set(pairwise(words)) or {(w,) for w in words}


def jaccard(a: str, b: str) -> float:
    x, y = shingles(a), shingles(b)
    return len(x & y) / len(x | y) if x | y else 0.0


@settings(max_examples=200)
@given(
    st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=9).map(" ".join), max_size=14),
    st.sampled_from([0.3, 0.5, 0.667, 0.8, 0.9, 1.0]),
)
def test_the_near_pairs_are_those_of_a_comparison_of_all_pairs(prompts: list[str], threshold: float) -> None:
    found = {(i, j): s for i, j, s in _near_pairs(prompts, threshold)}
    pairs = {(i, j): jaccard(prompts[i], prompts[j]) for i, j in combinations(range(len(prompts)), 2)}
    assert found == {pair: s for pair, s in pairs.items() if s >= threshold and s > 0}


QUESTION = "What is the best way to remove a stripped screw from an old wooden door"


@pytest.mark.parametrize(
    ("copy", "similarity"),
    [
        (QUESTION, 1.0),
        (QUESTION.upper() + "?!", 1.0),
        ("  what, is the best way -- to remove a stripped screw\nfrom an old wooden door…", 1.0),
        ("Ｗｈａｔ is the best way to remove a stripped screw from an old wooden door", 1.0),
        # 14 bigrams of QUESTION, one more here
        (QUESTION + " please", 14 / 15),
    ],
)
def test_a_copy_is_a_leak(copy: str, similarity: float) -> None:
    (leak,) = find_leaks([record("train", copy), record("other", "Name five rivers in Spain")], [record("t", QUESTION)])
    assert (leak.train[1], leak.test[1]) == ("train", "t")
    assert leak.similarity == pytest.approx(similarity)


@pytest.mark.parametrize(
    "other",
    [
        "Name five rivers in Spain",
        "What is the best way to cook rice for twelve guests",
        "door wooden old an from screw stripped a remove to way best the is What",  # same words, other sentence
        "",
    ],
)
def test_an_unrelated_prompt_is_no_leak(other: str) -> None:
    assert find_leaks([record("train", other)], [record("t", QUESTION)]) == []


def test_copies_inside_one_side_are_no_leak() -> None:
    assert find_leaks([record(1, QUESTION), record(2, QUESTION)], [record(3, "Name five rivers in Spain")]) == []


def test_leaks_are_listed_with_the_most_similar_first() -> None:
    train = [record("near", QUESTION + " please"), record("exact", QUESTION)]
    assert [leak.train[1] for leak in find_leaks(train, [record("t", QUESTION)])] == ["exact", "near"]


def test_a_single_word_is_compared_too() -> None:
    assert len(find_leaks([record(1, "Hello!")], [record(2, "hello")])) == 1


def test_an_exact_copy_without_any_word_is_a_leak() -> None:
    assert len(find_leaks([record(1, "🔫💣?")], [record(2, "🔫💣?")])) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [("Don’t  STOP—now!", "don t stop now"), ("ﬁne\tＡ１", "fine a1"), ("Straße", "strasse"), ("?!", ""), ("", "")],
)
def test_normalise_keeps_only_the_words(text: str, words: str) -> None:
    assert normalise(text) == words
