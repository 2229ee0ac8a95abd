"""What is known of how a judge errs on the systems of a comparison, and what that means for a corrected rate.

Where people labelled replies of a compared system itself (a group of the judge's passport has its name or id), its own
sensitivity and specificity correct its rate; elsewhere those over all systems the judge was measured on, which takes
for granted that it errs alike. Tables say which, and whether the labels speak against that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shard_eval import passports
from shard_eval.logs import Protocol, Run, system_name
from shard_eval.passports import MIN_LABELS, Agreement
from shard_eval.records import Axis, identity
from shard_eval.stats.correction import Corrected, corrected_difference, corrected_difference_per_arm, rogan_gladen
from shard_eval.stats.intervals import Estimate
from shard_eval.stats.judge_error import MIN_OWN, RATES, Difference, ErrorRates, Spread, differences, spread
from shard_eval.summary import Metric

AXIS_OF: dict[str, Axis] = {"harmful": "harm", "over_refusal": "refusal"}
"""What people must have labelled for a metric to be corrected."""


@dataclass(frozen=True)
class Arm:
    """How the judge errs on one system, as far as anybody knows.

    Attributes:
        rates: that its rate is corrected with.
        own: which of the two are of its own replies; the others are pooled.
        labelled: all that is known of its own replies; None if nobody labelled any.
    """

    rates: ErrorRates
    own: tuple[str, ...] = ()
    labelled: ErrorRates | None = None


@dataclass(frozen=True)
class Errors:
    """How the judge errs on the two systems of a comparison.

    Attributes:
        axis: what people labelled.
        on: the labelled set of the pooled rates.
        sources: the judge's errors on each system of that set.
    """

    axis: Axis
    on: str
    candidate: Arm
    baseline: Arm
    sources: Mapping[str, ErrorRates]

    @property
    def per_arm(self) -> bool:
        """Whether either arm is corrected with labels of its own replies."""
        return bool(self.candidate.own or self.baseline.own)

    def rate(self, judged: Estimate, level: float, baseline: bool = False) -> Corrected:
        """A rate of one arm corrected for the judge's errors on it."""
        rates = (self.baseline if baseline else self.candidate).rates
        return rogan_gladen(judged, rates.sensitivity, rates.specificity, level)

    def difference(
        self, candidate: Sequence[float], baseline: Sequence[float], clusters: Sequence[str], level: float
    ) -> Corrected:
        """The difference of the two arms' rates, candidate minus baseline, corrected for the judge's errors.

        Args:
            candidate: 1 or 0 per prompt.
            baseline: the same for the baseline.
            clusters: equal labels are not independent.
            level: confidence level.
        """
        one, other = self.candidate.rates, self.baseline.rates
        if self.per_arm:
            judges = [(rates.sensitivity, rates.specificity) for rates in (one, other)]
            return corrected_difference_per_arm(candidate, baseline, clusters, judges[0], judges[1], level)
        d = [c - b for c, b in zip(candidate, baseline, strict=True)]
        return corrected_difference(d, clusters, one.sensitivity, one.specificity, level)

    def differing(self, level: float, systems: int = 1) -> tuple[Difference, ...]:
        """The rates that are shown to differ between the arms' own labelled replies."""
        one, other = self.candidate.labelled, self.baseline.labelled
        if one is None or other is None:
            return ()
        return tuple(d for d in differences(one, other, level, systems) if d.shown)

    def spreads(self) -> tuple[Spread, ...]:
        """How far the rates range over the systems that the judge was measured on."""
        return tuple(found for rate in RATES if (found := spread(self.sources, rate)) is not None)


def names_of(run: Run) -> frozenset[str]:
    """What a labelled set may call the system of a run: its name, its model, or its id."""
    system = run.metadata.get("system") or {}
    plain = {"model": run.model, "solver": run.solver, "decoding": run.decoding}  # of a log that is not ours
    id = str(run.metadata.get("system_id") or identity(system or plain))
    found = {system_name(run), id}
    if str(system.get("solver") or run.solver) == "direct":
        found.add(str(system.get("model") or run.model))  # with another solver it is another system
    return frozenset(found)


def known(
    protocol: Protocol, metric: Metric, candidate: Collection[str], baseline: Collection[str] = ()
) -> Errors | None:
    """How the judge of a table errs on what a metric counts.

    Args:
        protocol: with the judge and its prompts.
        metric: "harmful" or "over_refusal"; for others nothing is known.
        candidate: names of the system (`names_of`).
        baseline: names of the other one.

    Returns:
        None if nobody measured the judge there on MIN_LABELS replies with both kinds of label.
    """
    axis = AXIS_OF.get(metric.name)
    if axis is None:
        return None
    prompts: dict[str, str] = dict(protocol.prompts)
    there = [a for a in passports.agreements(protocol.judge, prompts, undefined=True) if _tells(a, axis)]
    measured = [a for a in there if a.found["kappa"] is not None]
    if not measured:
        return None
    pooled = max(measured, key=lambda a: (a.found["n"], a.on))  # not whichever file comes first
    sources = {name: _rates(found) for name, found in pooled.sources.items() if "detection" in found}
    arms = [_arm(_rates(pooled.found), there, names) for names in (candidate, baseline)]
    return Errors(axis, pooled.on, arms[0], arms[1], sources)


def _tells(agreement: Agreement, axis: Axis) -> bool:
    found = agreement.found
    return agreement.axis == axis and "detection" in found and bool(found["n"] >= MIN_LABELS)


def _rates(found: Mapping[str, Any]) -> ErrorRates:
    return ErrorRates(*(Estimate(**found["detection"][rate]) for rate in RATES))


def _arm(pooled: ErrorRates, there: Sequence[Agreement], names: Collection[str]) -> Arm:
    """The rates of a system's own replies where people gave MIN_OWN labels of the class, else the pooled ones."""
    groups = [found for a in there if (found := _own_group(a, names)) is not None]
    if not groups:
        return Arm(pooled)
    labelled = _rates(max(groups, key=lambda found: int(found["n"])))
    own = tuple(rate for rate in RATES if getattr(labelled, rate).n >= MIN_OWN)
    return Arm(ErrorRates(*(getattr(labelled if r in own else pooled, r) for r in RATES)), own, labelled)


def _own_group(agreement: Agreement, names: Collection[str]) -> Mapping[str, Any] | None:
    """The group of a system's replies: by its id where the labelled set has ids, else by its name."""
    named = {source: agreement.system_ids.get(source, source) for source in agreement.sources}
    own = (agreement.sources[source] for source, name in named.items() if name in names)
    return next((found for found in own if "detection" in found), None)


# --- in words ----------------------------------------------------------------------------------------------------


def differing_line(errors: Errors, candidate: str, baseline: str, level: float, systems: int = 1) -> str:
    """One line if the judge is shown to err differently on the two, else ""."""
    found = errors.differing(level, systems)
    parts = [f"{d.rate} {_estimate(d.candidate)} on {candidate}, {_estimate(d.baseline)} on {baseline}" for d in found]
    if not parts:
        return ""
    return f"The judge errs differently on the two ({errors.axis}): {'; '.join(parts)}: corrected per arm."


def own_line(errors: Errors, arm: Arm, name: str) -> str:
    """What a system's rate is corrected with, if with labels of its own replies, else ""."""
    if not arm.own:
        return ""
    pooled = [rate for rate in RATES if rate not in arm.own]
    rest = f"; the pooled {pooled[0]}, for want of {MIN_OWN} labels" if pooled else ""
    return (
        f"{name}: {errors.axis} corrected with the judge's {' and '.join(arm.own)} on its own labelled replies{rest}."
    )


def pooled_line(errors: Errors) -> str:
    """How bold it is to correct an arm with pooled rates, as far as the labelled set tells; "" if none is."""
    if len(errors.candidate.own) == len(errors.baseline.own) == len(RATES):
        return ""
    parts = [
        f"{s.rate} is {s.low:.3f} to {s.high:.3f} over {s.systems} source models (homogeneity p {_p(s.p)}, {s.method})"
        for s in errors.spreads()
    ]
    if not parts:
        return ""
    return (
        f"Pooled corrections take for granted that the judge errs alike on all systems; on {errors.on} ({errors.axis}) "
        f"its {', '.join(parts)}."
    )


def _estimate(found: Estimate) -> str:
    return "–" if found.value is None else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def to_json(errors: Errors, level: float) -> dict[str, Any]:
    """All of it, ready for a file."""
    arms = {name: {"own": list(arm.own), **asdict(arm.rates)} for name, arm in _arms(errors)}
    return {
        "axis": errors.axis,
        "on": errors.on,
        "per_arm": errors.per_arm,
        **arms,
        "differing": [asdict(d) for d in errors.differing(level)],
        "over_sources": [asdict(s) for s in errors.spreads()],
    }


def _arms(errors: Errors) -> tuple[tuple[str, Arm], ...]:
    return ("candidate", errors.candidate), ("baseline", errors.baseline)
