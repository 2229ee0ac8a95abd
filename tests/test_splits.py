"""Splits: fixed by the prompts alone, nothing related is torn apart, and leaks are found."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shard_eval.errors import UsageError
from shard_eval.records import Record
from shard_eval.splits import (
    FRACTIONS,
    NEAR_DUPLICATE,
    SPLITS,
    _near_pairs,
    assign_splits,
    choose_split,
    find_leaks,
    fold,
    normalise,
)

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


# --- folds and expressions -------------------------------------------------------------------------------------


folds = st.integers(2, 10)


@given(sets(), folds, st.randoms(use_true_random=False))
def test_every_record_is_in_one_fold_whatever_the_order(records: list[Record], n: int, rng: random.Random) -> None:
    other = records.copy()
    rng.shuffle(other)
    found = fold(records, n)
    assert found == fold(other, n)
    assert set(found) == {r.key for r in records} and set(found.values()) <= set(range(1, n + 1))


@given(sets(), folds)
def test_a_fold_keeps_clusters_and_near_duplicates_together(records: list[Record], n: int) -> None:
    found = fold(records, n)
    for a, b in combinations(records, 2):
        if (a.cluster and a.cluster == b.cluster) or jaccard(a.prompt, b.prompt) >= NEAR_DUPLICATE:
            assert found[a.key] == found[b.key]


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from("pqrs"), st.integers(1, 60), min_size=1), folds)
def test_folds_are_equal_overall_and_in_every_category(sizes: dict[str, int], n: int) -> None:
    records = [record(f"{c}{i}", f"{c}{i}a {c}{i}b {c}{i}c", c) for c, size in sizes.items() for i in range(size)]
    found = fold(records, n)
    for part in (records, *([r for r in records if r.category == c] for c in sizes)):
        count = Counter(found[r.key] for r in part)
        assert max(count.values()) - min(count[k] for k in range(1, n + 1)) <= 1


def test_folds_of_groups_differ_by_no_more_than_the_largest_group() -> None:
    rng = random.Random(1)
    groups = [rng.randint(1, 5) for _ in range(80)]
    records = [record(f"{g}-{i}", f"{g}x{i} {g}y{i}", cluster=f"c{g}") for g, n in enumerate(groups) for i in range(n)]
    for n in range(2, 11):
        count = Counter(fold(records, n).values())
        assert len(count) == n and max(count.values()) - min(count.values()) <= max(groups)


def test_folds_say_nothing_about_train_dev_and_test() -> None:
    records = assign_splits([record(i, f"{i}a {i}b {i}c", str(i % 12)) for i in range(1200)])
    found = fold(records, 2)
    assert found == fold([replace(r, split="") for r in records], 2)
    for name, share in FRACTIONS.items():
        inside = sum(found[r.key] == 1 for r in records if r.split == name)
        assert inside == pytest.approx(share * 600, abs=4 * (1200 * share * 0.25) ** 0.5)


@pytest.mark.parametrize("n", [-1, 0, 1, 11])
def test_only_two_to_ten_folds_can_be_made(n: int) -> None:
    with pytest.raises(UsageError, match="from 2 to 10"):
        fold([record(1, "x")], n)


names = st.sampled_from([*SPLITS, "fold1of2", "fold2of2", "fold1of3", "fold3of3", "fold10of10"])
terms = st.lists(st.lists(names, min_size=1, max_size=3), min_size=1, max_size=3)


@given(sets(), terms)
def test_an_expression_is_the_union_of_intersections(records: list[Record], terms: list[list[str]]) -> None:
    records = assign_splits(records)

    def inside(r: Record, name: str) -> bool:
        if name in SPLITS:
            return r.split == name
        k, n = name.removeprefix("fold").split("of")
        return fold(records, int(n))[r.key] == int(k)

    found = choose_split(records, "+".join("&".join(term) for term in terms))
    assert found == [r for r in records if any(all(inside(r, name) for name in term) for term in terms)]


@given(sets(), folds)
def test_all_folds_together_are_everything_and_share_nothing(records: list[Record], n: int) -> None:
    records = assign_splits(records)
    parts = [f"fold{k}of{n}" for k in range(1, n + 1)]
    assert choose_split(records, "+".join(parts)) == choose_split(records, "") == records
    assert all(choose_split(records, f"{a}&{b}") == [] for a, b in combinations(parts, 2))


@pytest.mark.parametrize(
    "name", ["tests", "-", " train", "Train", "fold", "fold0of2", "fold3of2", "fold1of1", "fold1of11"]
)
@pytest.mark.parametrize("around", ["{}", "train+{}", "dev&{}+test", "train&fold1of2+{}"])
def test_what_is_no_part_of_an_expression_is_named(name: str, around: str) -> None:
    expression = around.format(name)
    with pytest.raises(UsageError) as error:
        choose_split([record(1, "x", split="train")], expression)
    assert f"split {expression!r}: {name!r} is no part of it" in str(error.value)


@pytest.mark.parametrize(
    "expression", ["train,dev", "fold01of2", "fold1of2of3", "fold１of2", "train&(dev+test)", "+", "train&", "!dev"]
)
def test_the_language_has_nothing_else(expression: str) -> None:
    with pytest.raises(UsageError, match="is no part of it"):
        choose_split([record(1, "x", split="train")], expression)


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
