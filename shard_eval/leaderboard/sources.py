"""From a spec to the result folders it is about: which run of which system stands in which table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import fsspec

from shard_eval.errors import LogError, UsageError
from shard_eval.leaderboard.spec import Spec, SystemSpec


@dataclass(frozen=True)
class Key:
    """A table: one benchmark by one judge, the judge as the spec names it."""

    benchmark: str
    judge: str


def manifests(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The runs below a path: a run's folder, or a system's folder with several.

    Yields:
        Folder and manifest of each.

    Raises:
        UsageError: if there is none.
        LogError: if a manifest cannot be read.
    """
    try:
        filesystem, folder = fsspec.core.url_to_fs(path.rstrip("/"))
    except ValueError as error:
        raise UsageError(f"{path[:200]!r} is no place that can be read ({error}).") from error
    below = [folder, *sorted(str(p) for p in filesystem.ls(folder, detail=False))] if filesystem.isdir(folder) else []
    found = [p for p in below if filesystem.exists(f"{p}/manifest.json")]
    if not found:
        raise UsageError(
            f"{path[:200]!r} holds no finished run (no manifest.json in it or one level below). Score the system "
            "first, and run this command in the folder that the spec's paths start from."
        )
    for place in found:
        try:
            manifest = json.loads(filesystem.cat_file(f"{place}/manifest.json"))
        except (ValueError, RecursionError) as error:
            raise LogError(f"{place}/manifest.json is no JSON: {error}.") from error
        if not isinstance(manifest, dict):
            raise LogError(f"{place}/manifest.json is no manifest. Delete the folder and score again.")
        yield path.rstrip("/") + place.removeprefix(folder), manifest


def find(spec: Spec) -> dict[Key, dict[str, str]]:
    """Choose each system's run for each table.

    Returns:
        Per table the folder of each system that was scored for it; the baseline is in all of them.

    Raises:
        UsageError: if the baseline lacks a run, or two runs of a system fit.
        LogError: if a manifest is damaged or of an older version.
    """
    chosen: dict[Key, dict[str, str]] = {Key(b, j): {} for b in spec.benchmarks for j in spec.judges}
    for system in spec.systems:
        for key, folders in _fitting(spec, system).items():
            if len(folders) > 1:
                raise UsageError(
                    f"{system.name}: {len(folders)} runs fit {key.benchmark} by {key.judge} ({', '.join(folders)}). "
                    "Name the one that is meant in `results`, or a longer judge's name."
                )
            chosen[key][system.name] = folders[0]
    for key, systems in chosen.items():
        if spec.baseline not in systems:
            raise UsageError(
                f"the baseline {spec.baseline!r} has no run of {key.benchmark} by judge {key.judge!r}"
                f"{f' on split {spec.split!r}' if spec.split else ''}; it has {_there(spec)}. Score it, or take that "
                "out of the spec."
            )
    return chosen


def _there(spec: Spec) -> str:
    """What the baseline was scored on, and by whom."""
    paths = next(system.results for system in spec.systems if system.name == spec.baseline)
    protocols = [m.get("protocol") or {} for path in paths for _, m in manifests(path)]
    return ", ".join(sorted({f"{p.get('benchmark')} by {p.get('judge')}" for p in protocols})) or "none"


def _fitting(spec: Spec, system: SystemSpec) -> dict[Key, list[str]]:
    """A system's runs per table."""
    found: dict[Key, list[str]] = {}
    for path in system.results:
        for folder, manifest in manifests(path):
            protocol = manifest.get("protocol")
            if not isinstance(protocol, dict):
                raise LogError(
                    f"{folder}/manifest.json does not say by which protocol it was scored; an older version wrote it. "
                    "Repeat the command that made it: finished work is not done again."
                )
            for judge in spec.judges:
                key = Key(str(protocol.get("benchmark")), judge)
                named = folder == path.rstrip("/")  # the spec names this very run, whatever its split
                if (
                    key.benchmark in spec.benchmarks
                    and _judged_by(protocol, judge)
                    and (named or _split(manifest, spec))
                ):
                    _require_split(spec, system.name, folder, manifest)
                    found.setdefault(key, []).append(folder)
    return found


def _require_split(spec: Spec, name: str, folder: str, manifest: Mapping[str, Any]) -> None:
    """A run that is named by itself may be of any split, if the spec names none."""
    split = str((manifest.get("run") or {}).get("split") or "")
    if spec.split and split != spec.split:
        raise UsageError(f"{name}: {folder} is on {split or 'all records'!r}, the spec says split = {spec.split!r}.")


def _judged_by(protocol: Mapping[str, Any], judge: str) -> bool:
    name = str(protocol.get("judge"))
    return name == judge or name.startswith((f"{judge}:", f"{judge} "))


def _split(manifest: Mapping[str, Any], spec: Spec) -> bool:
    """Whether a run is on the spec's split, and not on the first records only."""
    run = manifest.get("run") or {}
    return (run.get("split") or "") == spec.split and run.get("limit") is None


def experiments(root: str = "results/experiments") -> dict[str, dict[str, Any]]:
    """What trained which weights: the manifests of training runs, by the hash of each checkpoint they left."""
    filesystem, folder = fsspec.core.url_to_fs(root)
    found: dict[str, dict[str, Any]] = {}
    for place in sorted(str(p) for p in filesystem.ls(folder, detail=False)) if filesystem.isdir(folder) else []:
        if not filesystem.exists(f"{place}/manifest.json"):
            continue
        manifest = json.loads(filesystem.cat_file(f"{place}/manifest.json"))
        for leg in manifest.get("checkpoints", []):
            found |= {checkpoint["sha256"]: manifest for checkpoint in leg}
    return found
