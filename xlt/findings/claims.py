"""Published findings: which cells of tables test each one, and whether their numbers confirm it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xlt.config import key
from xlt.errors import UsageError
from xlt.findings.verdict import (
    CLOSE,
    FAILS,
    HOLDS,
    TOO_FEW,
    UNTESTED,
    Trial,
    Verdict,
    holm,
    judge,
    judge_counted,
    judge_groups,
)

SCALES = ("mini", "thesis")


@dataclass
class ComparisonConfig:
    """A test of a claim: it compares two systems of a table, for each language and seed."""

    table: str = key("file in conf/table")
    heading: str = key("heading of the table, for example POS; empty: the table's only heading")
    store: str = key("name of the store with the runs, from `stores`")
    better: str = key("system that is better according to the claim")
    worse: str = key("system that is worse according to the claim")
    columns: list[str] = key("languages or groups of the table to compare on; empty: those of its average")
    over: list[str] = key("two further systems, whose difference must be the smaller one; empty: none")
    against: list[str] = key("languages or groups on which the difference must be smaller; empty: none")
    cost: str | None = key("name of an evaluation's cost, compared as a ratio; null: scores, compared as a difference")
    margin: float = key("the difference must exceed this many points; for a cost, the ratio must exceed this")
    at: dict[str, Any] = key("scale -> values of other keys that differ at this scale")
    lacking: dict[str, str] = key("scale -> why the table has no such cells at this scale")

    def faults(self, prefix: str) -> Iterator[str]:
        if len(self.over) not in (0, 2):
            yield f"{prefix}.over={self.over}: must be two systems or none"
        if self.over and self.against:
            yield f"{prefix}: give one of over and against, not both"
        for scale in {*self.at, *self.lacking} - {*SCALES}:
            yield f"{prefix}.at, {prefix}.lacking: {scale} is no scale; there are {', '.join(SCALES)}"
        if self.cost is not None and (self.over or self.against):
            yield f"{prefix}.cost={self.cost}: cannot be combined with over or against"
        if self.cost is not None and self.margin <= 0:
            yield f"{prefix}.margin={self.margin}: must be above 0, because it is a ratio of costs"


@dataclass
class ClaimConfig:
    """A finding of the thesis or of a paper."""

    says: str = key("the finding, in one sentence")
    where: str = key("section and table of the thesis, or paper, with the finding")
    published: dict[str, list[float]] = key("name -> published numbers, in the order of `better` and `worse`")
    tests: dict[str, ComparisonConfig] = key("name -> test of the claim; empty: no table tests it")


@dataclass
class StoreConfig:
    """A run store, with the seeds and overrides of its tables."""

    output_dir: str = key("folder with the runs")
    seeds: list[int] = key("seeds of the runs")
    overrides: list[str] = key("Hydra overrides for every run, for example data_dir=... or model.path=...")


@dataclass
class ClaimsConfig:
    """The settings of the command `scripts/claims.py`."""

    claims: dict[str, ClaimConfig] = key("name -> claim, in order")
    every_test: list[str] = key("claims that hold only if all their tests do; for other claims one test suffices")
    untested: dict[str, str] = key("claim without tests -> reason why no table tests it")
    only: list[str] = key("claims to check; empty: all")
    stores: dict[str, StoreConfig] = key("name -> run store")
    output_dir: str = key("folder for the report, and of the runs of stores that give none")
    seeds: list[int] = key("seeds of stores that give none")
    scale: str = key("scale of tables and runs: mini or thesis", choices=SCALES)
    level: float = key("significance level of the one-sided tests, in each direction", above=0, high=0.5)
    confidence: float = key("confidence of the two-sided interval", above=0.5, high=0.999)
    resamples: int = key("number of bootstrap samples, and largest number of permutations", low=100)
    enough_languages: int = key(
        "from this many languages on, a unit of a test is a language; below, a pair of language and seed", low=2
    )

    def faults(self, prefix: str) -> Iterator[str]:
        own = {f"stores.{name}.seeds": store.seeds for name, store in self.stores.items() if store.seeds != self.seeds}
        for name, seeds in {"seeds": self.seeds, **own}.items():
            if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
                yield f"{name}={seeds}: must be different numbers from 0, at least one; for instance {name}=[1,2,3]"
        for name in self.only:
            if name not in self.claims:
                yield f"only: there is no claim {name}; there are {', '.join(self.claims)}"
        if 1 / (self.resamples + 1) > self.level:
            yield f"resamples={self.resamples}: too few for level={self.level:g}"
        for name in self.every_test:
            if name not in self.claims:
                yield f"every_test: there is no claim {name}"
        for name in self.untested.keys() ^ {name for name, claim in self.claims.items() if not claim.tests}:
            yield f"claims.{name}.tests: give either tests or, in untested.{name}, a reason why there are none"
        for name, claim in self.claims.items():
            for label, test in claim.tests.items():
                if test.store not in self.stores:
                    where = f"claims.{name}.tests.{label}.store={test.store}"
                    yield f"{where}: no such store; there are {', '.join(self.stores)}"

    @property
    def trial(self) -> Trial:
        return Trial(self.level, self.confidence, self.resamples, self.enough_languages)

    def verdict(self, claim: str, findings: Collection[Finding]) -> str:
        """Returns the verdict on a claim, given the findings of its tests."""
        return overall(findings, claim in self.every_test, self.level)


@dataclass(frozen=True)
class Value:
    """A number of a finished evaluation, and the fingerprint of its run."""

    number: float
    run: str


Row = Mapping[str, Value]
"""Language -> value, for one system and seed; languages without a finished evaluation are left out."""
Rows = Callable[[ComparisonConfig, str, int], Row]
"""A function (comparison, system, seed) -> row; it raises UsageError if the system cannot be composed."""


@dataclass(frozen=True)
class Pair:
    """One difference, positive in the claimed direction, and the numbers from which it is computed."""

    language: str
    seed: int
    difference: float
    values: tuple[Value, ...]


@dataclass
class Finding:
    """The result of a comparison.

    Attributes:
        comparison: the comparison.
        verdict: the statistical result.
        pairs, others: differences on `columns`, and on the columns `against` which they are compared.
        reason: why not all numbers could be compared; None if all were.
        lacking: whether the table has no such cells at this scale, so that further runs do not help; `reason` says why.
        corrected, corrected_below: `p` and `p_below`, corrected for the number of the claim's tests.
    """

    comparison: ComparisonConfig
    verdict: Verdict
    pairs: list[Pair] = field(default_factory=list)
    others: list[Pair] = field(default_factory=list)
    reason: str | None = None
    lacking: bool = False
    corrected: float | None = None
    corrected_below: float | None = None

    @property
    def runs(self) -> list[str]:
        """Returns the fingerprints of the runs of all numbers."""
        values = (value for pair in (*self.pairs, *self.others) for value in pair.values)
        return list(dict.fromkeys(value.run for value in values))


def without_cells(comparison: ComparisonConfig, scale: str) -> Finding | None:
    """Returns the finding for a comparison whose cells do not exist at a scale; None if they exist."""
    if (why := comparison.lacking.get(scale)) is None:
        return None
    return Finding(comparison, Verdict(UNTESTED), reason=f"no cells at scale={scale}: {why}", lacking=True)


def examine(
    comparison: ComparisonConfig,
    rows: Rows,
    languages: Callable[[Sequence[str]], Sequence[str]],
    seeds: Sequence[int],
    trial: Trial,
) -> Finding:
    """Compares two systems on the numbers in the store; if numbers are missing, the finding says why.

    Args:
        comparison: the test to carry out.
        rows: gives the numbers.
        languages: replaces groups among columns by their members; raises UsageError if there is no such table.
        seeds: seeds for which the systems are compared.
        trial: the statistical procedure.
    """
    systems = [comparison.better, comparison.worse, *comparison.over]
    try:
        own = list(languages(comparison.columns))
        against = list(languages(comparison.against)) if comparison.against else []
        rows_by_seed = {seed: [rows(comparison, system, seed) for system in systems] for seed in seeds}
    except UsageError as error:
        more = f" (and {len(error.lines) - 1} more)" if len(error.lines) > 1 else ""
        return Finding(comparison, Verdict(UNTESTED), reason=error.lines[0] + more)
    pairs, others = (list(_pairs(comparison, rows_by_seed, columns)) for columns in (own, against))
    if against:
        verdict = judge_groups(_differences(pairs), _differences(others), trial)
    elif comparison.cost is not None:
        verdict = judge_counted(_differences(pairs), trial)
    else:
        verdict = judge(_differences(pairs), trial)
    expected, stored = (len(own) + len(against)) * len(seeds), len(pairs) + len(others)
    reason = f"{stored} of {expected} pairs are in the store" if stored < expected else None
    return Finding(comparison, verdict, pairs, others, reason)


def correct(findings: Collection[Finding]) -> None:
    """Sets `corrected` and `corrected_below` of a claim's tests by Holm's method, over all tests with enough data."""
    tested = [f for f in findings if f.verdict.p is not None and f.verdict.word != TOO_FEW]
    above, below = (holm([getattr(f.verdict, side) for f in tested]) for side in ("p", "p_below"))
    for finding, p, p_below in zip(tested, above, below, strict=True):
        finding.corrected, finding.corrected_below = p, p_below


def overall(findings: Collection[Finding], every_test: bool, level: float) -> str:
    """Returns the verdict on a claim, after its tests have been corrected.

    The claim holds if all tests hold, or if at least one holds after correction and none fails. It fails by the same
    rule, with the directions exchanged. A claim about every test holds only if all tests hold, which needs no
    correction; it fails if one test fails after correction.

    Args:
        findings: of the claim's tests.
        every_test: whether the claim is about every test.
        level: significance level of the tests.
    """
    words = {finding.verdict.word for finding in findings if not finding.lacking}
    tested = words - {TOO_FEW, UNTESTED}
    held = any(f.verdict.word == HOLDS and _within(f.corrected, level) for f in findings)
    failed = any(f.verdict.word == FAILS and _within(f.corrected_below, level) for f in findings)
    undecided = next((word for word in (CLOSE, TOO_FEW, UNTESTED) if word in words), None)
    if every_test:
        if failed or tested == {FAILS}:
            return FAILS
        return CLOSE if FAILS in tested else undecided or (HOLDS if words else UNTESTED)
    if tested == {HOLDS} or (held and FAILS not in tested):
        return HOLDS
    if tested == {FAILS} or (failed and HOLDS not in tested):
        return FAILS
    return CLOSE if tested else undecided or UNTESTED


def _within(p: float | None, level: float) -> bool:
    """Returns whether p is at most the level; True for a finding without p, which was counted instead of tested."""
    return p is None or p <= level


def as_record(name: str, findings: Mapping[str, Finding], config: ClaimsConfig) -> dict[str, Any]:
    """Returns a claim and its findings as JSON values; every number has the fingerprint of its run."""
    claim = config.claims[name]
    return {
        "claim": name,
        "says": claim.says,
        "where": claim.where,
        "published": claim.published,
        "verdict": config.verdict(name, findings.values()),
        "of_every_test": name in config.every_test,
        "untested": config.untested.get(name),
        "tests": {label: _finding_record(finding) for label, finding in findings.items()},
    }


def _finding_record(finding: Finding) -> dict[str, Any]:
    comparison, verdict = finding.comparison, finding.verdict
    return {
        "table": comparison.table,
        "heading": comparison.heading,
        "systems": [comparison.better, comparison.worse, *comparison.over],
        "cost": comparison.cost,
        "margin": comparison.margin,
        "verdict": verdict.word,
        "units": verdict.units,
        "unit": verdict.unit,
        "mean": verdict.mean,
        "interval": None if verdict.low is None else [verdict.low, verdict.high],
        "p": verdict.p,
        "p_holm": finding.corrected,
        "p_below": verdict.p_below,
        "p_below_holm": finding.corrected_below,
        "reason": finding.reason,
        "lacking": finding.lacking,
        "pairs": [_pair_record(pair) for pair in finding.pairs],
        "against": [_pair_record(pair) for pair in finding.others],
    }


def _pair_record(pair: Pair) -> dict[str, Any]:
    return {
        "language": pair.language,
        "seed": pair.seed,
        "difference": pair.difference,
        "values": [value.number for value in pair.values],
        "runs": [value.run for value in pair.values],
    }


def _pairs(
    comparison: ComparisonConfig, rows_by_seed: Mapping[int, Sequence[Row]], languages: Sequence[str]
) -> Iterator[Pair]:
    for seed, rows in rows_by_seed.items():
        for language in languages:
            if all(language in row for row in rows):
                values = tuple(row[language] for row in rows)
                yield Pair(language, seed, _difference(comparison, [value.number for value in values]), values)


def _difference(comparison: ComparisonConfig, numbers: Sequence[float]) -> float:
    """Returns the difference in points, or for a cost the logarithm of the ratio; the margin is subtracted."""
    if comparison.cost is not None:
        return math.log(numbers[1] / numbers[0]) - math.log(comparison.margin)
    first, second, *others = numbers
    return first - second - (others[0] - others[1] if others else 0.0) - comparison.margin


def _differences(pairs: Iterable[Pair]) -> dict[tuple[str, int], float]:
    return {(pair.language, pair.seed): pair.difference for pair in pairs}


def requested_claims(config: ClaimsConfig) -> dict[str, ClaimConfig]:
    """Returns the claims that the command requests."""
    return {name: claim for name, claim in config.claims.items() if not config.only or name in config.only}


def used_columns(comparisons: Iterable[ComparisonConfig]) -> list[str]:
    """Returns all columns that comparisons of one table use, without duplicates."""
    return list(dict.fromkeys(column for one in comparisons for column in (*one.columns, *one.against)))
