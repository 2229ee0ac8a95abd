"""Train / dev / test by prompt hash, fixed before anything is generated, and the check that nothing leaks.

The assignment depends on the prompts alone: not on their order, not on any model's output. Near-duplicates stay
together, and every category is divided in the same proportions. Folds divide the same records once more, by another
hash, for cross-fitting; `choose_split` reads expressions such as "train&fold2of2+test".
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise

from shard_eval.errors import UsageError
from shard_eval.records import Record, sha256

FRACTIONS = {"train": 0.6, "dev": 0.15, "test": 0.25}
SPLITS = tuple(FRACTIONS)
MOST_FOLDS = 10
SALT = "shard-eval split 1"  # changing it is a new split and a new comparability version of every task
FOLD_SALT = "shard-eval fold 1"  # another one, so that folds say nothing about train, dev and test
NEAR_DUPLICATE = 0.8  # Jaccard similarity of word bigrams


Key = tuple[str, str, str]


@dataclass(frozen=True)
class Leak:
    """A training prompt that is also (nearly) an evaluation prompt."""

    train: Key
    test: Key
    similarity: float


def normalise(prompt: str) -> str:
    """Fold case, width, punctuation and spacing, so that only the words count."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", prompt).casefold()))


def _shingles(prompt: str) -> frozenset[str]:
    words = normalise(prompt).split()
    return frozenset(" ".join(pair) for pair in pairwise(words)) or frozenset(words or [prompt.strip()])


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of two prompts' word bigrams, 0-1."""
    a, b = _shingles(one), _shingles(other)
    return len(a & b) / len(a | b)


def _near_pairs(prompts: Sequence[str], threshold: float) -> list[tuple[int, int, float]]:
    """All pairs whose Jaccard similarity reaches the threshold, found through shared shingles (exact).

    Only a prefix of each prompt's rarest shingles needs comparing: two sets with Jaccard >= t must share one of
    the first |s| - ceil(t |s|) + 1 elements in any global order (prefix filter; Chaudhuri et al. 2006).
    """
    sets = [_shingles(p) for p in prompts]
    frequency = Counter(s for shingles in sets for s in shingles)
    index: dict[str, list[int]] = defaultdict(list)
    pairs: dict[tuple[int, int], float] = {}
    for i, shingles in enumerate(sets):
        rarest = sorted(shingles, key=lambda s: (frequency[s], s))
        prefix = rarest[: len(rarest) - -(-int(threshold * 1000) * len(rarest) // 1000) + 1]
        for j in {j for s in prefix for j in index[s]}:
            similarity = len(shingles & sets[j]) / len(shingles | sets[j])
            if similarity >= threshold:
                pairs[(j, i)] = similarity
        for s in prefix:
            index[s].append(i)
    return [(i, j, similarity) for (i, j), similarity in pairs.items()]


def _groups(records: Sequence[Record]) -> list[list[Record]]:
    """Connected components of records that share a cluster or are near-duplicates."""
    parent = list(range(len(records)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    first: dict[str, int] = {}
    for i, record in enumerate(records):
        parent[root(i)] = root(first.setdefault(record.cluster or record.prompt_sha, i))
    for i, j, _ in _near_pairs([r.prompt for r in records], NEAR_DUPLICATE):
        parent[root(i)] = root(j)
    groups: dict[int, list[Record]] = defaultdict(list)
    for i, record in enumerate(records):
        groups[root(i)].append(record)
    return list(groups.values())


def _strata(records: Sequence[Record], salt: str) -> dict[str, list[list[Record]]]:
    """Groups of records that belong together, by category, in the order of their salted hash."""
    strata: dict[str, list[tuple[str, list[Record]]]] = defaultdict(list)
    for group in _groups(records):
        # The smallest hash stands for the group, so that the order of the records does not matter.
        head = min(group, key=lambda r: (sha256(salt + r.prompt_sha), r.category))
        strata[head.category].append((sha256(salt + head.prompt_sha), group))
    return {
        category: [group for _, group in sorted(stratum, key=lambda pair: pair[0])]
        for category, stratum in strata.items()
    }


def assign_splits(records: Sequence[Record], fractions: dict[str, float] | None = None) -> list[Record]:
    """Return the records, in their order, each with its split.

    Args:
        records: records without a split of their own; those that have one keep it.
        fractions: share of each split; sums to 1. Default 60 % train, 15 % dev, 25 % test.

    Raises:
        UsageError: if the fractions do not sum to 1.
    """
    shares = fractions or FRACTIONS
    if abs(sum(shares.values()) - 1) > 1e-9:
        raise UsageError(f"split fractions must sum to 1, got {shares}")
    bounds = list(zip(shares, accumulate(shares.values()), strict=True))
    bounds[-1] = (bounds[-1][0], 1.0)  # rounding must not leave a gap at the end
    split_of: dict[Key, str] = {}
    for stratum in _strata(records, SALT).values():
        total, done = sum(len(group) for group in stratum), 0
        for group in stratum:
            position = (done + len(group) / 2) / total
            split = next(name for name, bound in bounds if position <= bound)
            taken = sorted({record.split for record in group if record.split})
            split_of.update({record.key: taken[0] if taken else split for record in group})
            done += len(group)
    return [r if r.split else replace(r, split=split_of[r.key]) for r in records]


def fold(records: Sequence[Record], n: int) -> dict[Key, int]:
    """Divide records into n equal parts for cross-fitting, whatever their split.

    Near-duplicates and clusters stay together. Each group goes to the fold that has the fewest records of its category,
    so that the folds of a category differ by no more than one group.

    Args:
        records: all records of a benchmark; of a part of them the folds would be others.
        n: number of folds.

    Returns:
        The fold, 1 to n, by the record's key.

    Raises:
        UsageError: if n is not between 2 and 10.
    """
    if not 2 <= n <= MOST_FOLDS:
        raise UsageError(f"{n} folds: give a number from 2 to {MOST_FOLDS}.")
    return dict(_folds(tuple(records), n))


@lru_cache(maxsize=32)
def _folds(records: tuple[Record, ...], n: int) -> dict[Key, int]:
    fold_of: dict[Key, int] = {}
    overall: Counter[int] = Counter()
    for _, stratum in sorted(_strata(records, FOLD_SALT).items()):
        within: Counter[int] = Counter()
        for group in stratum:
            k = min(range(1, n + 1), key=lambda k: (within[k], overall[k], k))
            fold_of.update({record.key: k for record in group})
            within[k] += len(group)
            overall[k] += len(group)
    return fold_of


def choose_split(records: Sequence[Record], split: str) -> list[Record]:
    """The records, in their order, that an expression names.

    Args:
        records: all records of a benchmark, with their splits.
        split: "" for all; else parts joined by "&" (in both) and "+" (in either), "&" first. A part is train, dev,
            test, or foldKofN: the K-th of N equal parts, N from 2 to 10. "train&fold2of2+test" is the second half of
            train, and all of test.

    Raises:
        UsageError: naming the part that is none.
    """
    if not split:
        return list(records)
    terms = [[_part(records, name, split) for name in term.split("&")] for term in split.split("+")]
    chosen = set().union(*(set.intersection(*term) for term in terms))
    return [r for r in records if r.key in chosen]


def _part(records: Sequence[Record], name: str, split: str) -> set[Key]:
    if name in SPLITS:
        return {r.key for r in records if r.split == name}
    found = re.fullmatch("fold([1-9][0-9]?)of([1-9][0-9]?)", name)
    if found is None or not 2 <= int(found[2]) <= MOST_FOLDS or int(found[1]) > int(found[2]):
        raise UsageError(
            f"split {split!r}: {name!r} is no part of it; give some of {', '.join(SPLITS)} and foldKofN (the K-th of N "
            f"equal parts, N from 2 to {MOST_FOLDS}), joined by '+' (in either) or '&' (in both), or nothing for all."
        )
    return {key for key, k in fold(records, int(found[2])).items() if k == int(found[1])}


def find_leaks(train: Sequence[Record], test: Sequence[Record]) -> list[Leak]:
    """Pairs of a training and an evaluation prompt that are the same or nearly so, most similar first."""
    prompts = [r.prompt for r in train] + [r.prompt for r in test]
    n = len(train)
    leaks = [
        Leak(train[i].key, test[j - n].key, similarity)
        for i, j, similarity in _near_pairs(prompts, NEAR_DUPLICATE)
        if i < n <= j
    ]
    return sorted(leaks, key=lambda leak: (-leak.similarity, leak.train, leak.test))
