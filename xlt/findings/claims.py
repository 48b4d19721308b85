"""The thesis's findings, each tied to the cells of tables that test it, and what those cells say."""

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
    """Cells that test a claim: two systems of a table, language by language and seed by seed."""

    table: str = key("file in conf/table")
    heading: str = key("heading of the table, as POS; empty: its only one")
    store: str = key("name in stores: where its runs are")
    better: str = key("system that the claim has in front")
    worse: str = key("system that it is compared with")
    columns: list[str] = key("languages or groups of the table; empty: those of its average")
    over: list[str] = key("two systems whose difference the first two's is to exceed; empty: none")
    against: list[str] = key("languages or groups on which the difference is to be smaller; empty: none")
    cost: str | None = key("of an evaluation's cost, what is compared as a ratio; null: scores are compared")
    margin: float = key("points, of a cost times, by which it must be more than nothing")
    at: dict[str, Any] = key("scale -> what other keys take from here, where scales differ")
    lacking: dict[str, str] = key("scale -> why it has no such cells")

    def faults(self, prefix: str) -> Iterator[str]:
        if len(self.over) not in (0, 2):
            yield f"{prefix}.over={self.over}: must be two systems or none"
        if self.over and self.against:
            yield f"{prefix}: give one of over and against, not both"
        for scale in {*self.at, *self.lacking} - {*SCALES}:
            yield f"{prefix}.at, {prefix}.lacking: {scale} is no scale; there are {', '.join(SCALES)}"
        if self.cost is not None and (self.over or self.against):
            yield f"{prefix}.cost={self.cost}: goes without over and against"
        if self.cost is not None and self.margin <= 0:
            yield f"{prefix}.margin={self.margin}: must be above 0, the ratio of the costs"


@dataclass
class ClaimConfig:
    """A finding of the thesis."""

    says: str = key("the finding, one sentence")
    where: str = key("section and table of the thesis")
    published: dict[str, list[float]] = key("what -> its own numbers, in the order of better and worse")
    tests: dict[str, ComparisonConfig] = key("name -> cells that test it; empty: no table does")


@dataclass
class StoreConfig:
    """A run store, and how its tables are composed."""

    output_dir: str = key("where the runs are")
    seeds: list[int] = key("seeds of the systems")
    overrides: list[str] = key("Hydra overrides of every run: data_dir=..., model.path=...")


@dataclass
class ClaimsConfig:
    """What `scripts/claims.py` is told."""

    claims: dict[str, ClaimConfig] = key("claims by name, in order")
    every_test: list[str] = key("claims that are made of each of their tests, so that all must hold; of others one")
    untested: dict[str, str] = key("claim without tests -> why no table tests it")
    only: list[str] = key("claims to look at; empty: all")
    stores: dict[str, StoreConfig] = key("stores by name")
    output_dir: str = key("where the report goes, and the runs of stores that name no other")
    seeds: list[int] = key("seeds of stores that name no others")
    scale: str = key("mini or thesis, of tables and runs", choices=SCALES)
    level: float = key("level of the one-sided test, in either direction", above=0, high=0.5)
    confidence: float = key("of the interval, two-sided", above=0.5, high=0.999)
    resamples: int = key("permutations at most, and bootstrap samples", low=100)
    enough_languages: int = key("from as many on, languages are the units; else languages and seeds", low=2)

    def faults(self, prefix: str) -> Iterator[str]:
        own = {f"stores.{name}.seeds": store.seeds for name, store in self.stores.items() if store.seeds != self.seeds}
        for name, seeds in {"seeds": self.seeds, **own}.items():
            if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
                yield f"{name}={seeds}: must be different numbers from 0, at least one; for instance {name}=[1,2,3]"
        for name in self.only:
            if name not in self.claims:
                yield f"only: {name} is no claim; there are {', '.join(self.claims)}"
        if 1 / (self.resamples + 1) > self.level:
            yield f"resamples={self.resamples}: too few for level={self.level:g}"
        for name in self.every_test:
            if name not in self.claims:
                yield f"every_test: {name} is no claim"
        for name in self.untested.keys() ^ {name for name, claim in self.claims.items() if not claim.tests}:
            yield f"untested, claims.{name}.tests: a claim has tests, or it is said why it has none"
        for name, claim in self.claims.items():
            for label, test in claim.tests.items():
                if test.store not in self.stores:
                    where = f"claims.{name}.tests.{label}.store={test.store}"
                    yield f"{where}: no such store; there are {', '.join(self.stores)}"

    @property
    def trial(self) -> Trial:
        return Trial(self.level, self.confidence, self.resamples, self.enough_languages)

    def verdict(self, claim: str, findings: Collection[Finding]) -> str:
        """The word of a claim whose tests came to this."""
        return overall(findings, claim in self.every_test, self.level)


@dataclass(frozen=True)
class Value:
    """A number of a finished evaluation, and the run behind it."""

    number: float
    run: str


Row = Mapping[str, Value]
"""Language -> value of one system and seed; what is not there yet is left out."""
Rows = Callable[[ComparisonConfig, str, int], Row]
"""(comparison, system, seed) -> its row; raises UsageError where the system cannot be composed."""


@dataclass(frozen=True)
class Pair:
    """One difference, in the claimed direction, and the numbers it is made of."""

    language: str
    seed: int
    difference: float
    values: tuple[Value, ...]


@dataclass
class Finding:
    """What a comparison came to.

    Attributes:
        pairs, others: of the columns, and of those that they are compared against.
        reason: why nothing, or not all, could be compared.
        lacking: there are no such cells, so that nothing can be done about it; `reason` says why.
        corrected, corrected_below: `p` and `p_below` beside those of the claim's other tests.
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
        """Fingerprints behind the numbers."""
        values = (value for pair in (*self.pairs, *self.others) for value in pair.values)
        return list(dict.fromkeys(value.run for value in values))


def without_cells(comparison: ComparisonConfig, scale: str) -> Finding | None:
    """What a comparison comes to at a scale that lacks its cells; None if it has them."""
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
    """Compares two systems on what is there; why something is not there is said, never raised.

    Args:
        comparison: which.
        rows: the numbers.
        languages: writes out a comparison's columns; raises UsageError where there is no such table.
        seeds: those that are paired.
        trial: how it is judged.
    """
    systems = [comparison.better, comparison.worse, *comparison.over]
    try:
        own = list(languages(comparison.columns))
        against = list(languages(comparison.against)) if comparison.against else []
        found = {seed: [rows(comparison, system, seed) for system in systems] for seed in seeds}
    except UsageError as error:
        more = f" (and {len(error.lines) - 1} more)" if len(error.lines) > 1 else ""
        return Finding(comparison, Verdict(UNTESTED), reason=error.lines[0] + more)
    pairs, others = (list(_pairs(comparison, found, of)) for of in (own, against))
    if against:
        verdict = judge_groups(_differences(pairs), _differences(others), trial)
    elif comparison.cost is not None:
        verdict = judge_counted(_differences(pairs), trial)
    else:
        verdict = judge(_differences(pairs), trial)
    wanted, there = (len(own) + len(against)) * len(seeds), len(pairs) + len(others)
    reason = f"{there} of {wanted} pairs are in the store" if there < wanted else None
    return Finding(comparison, verdict, pairs, others, reason)


def correct(findings: Collection[Finding]) -> None:
    """Fills in `corrected` and `corrected_below` of a claim's tests: Holm, for as many as could be decided."""
    tested = [f for f in findings if f.verdict.p is not None and f.verdict.word != TOO_FEW]
    above, below = (holm([getattr(f.verdict, side) for f in tested]) for side in ("p", "p_below"))
    for finding, p, p_below in zip(tested, above, below, strict=True):
        finding.corrected, finding.corrected_below = p, p_below


def overall(findings: Collection[Finding], every_test: bool, level: float) -> str:
    """A claim's word, once its tests are corrected.

    It holds if all its tests do, or if one does with its corrected p and none does not. It does not hold likewise.
    A claim of every test holds only if all do, and then needs no correction; one that fails, corrected, refutes it.

    Args:
        findings: of the claim's tests.
        every_test: whether it is a claim of every test.
        level: of the tests.
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
    """Also for what is decided without a p: counted, not tested."""
    return p is None or p <= level


def as_record(name: str, findings: Mapping[str, Finding], config: ClaimsConfig) -> dict[str, Any]:
    """A claim and what became of it, as JSON values: every number with its run."""
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
    asked, verdict = finding.comparison, finding.verdict
    return {
        "table": asked.table,
        "heading": asked.heading,
        "systems": [asked.better, asked.worse, *asked.over],
        "cost": asked.cost,
        "margin": asked.margin,
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
    comparison: ComparisonConfig, found: Mapping[int, Sequence[Row]], languages: Sequence[str]
) -> Iterator[Pair]:
    for seed, rows in found.items():
        for language in languages:
            if all(language in row for row in rows):
                values = tuple(row[language] for row in rows)
                yield Pair(language, seed, _difference(comparison, [value.number for value in values]), values)


def _difference(comparison: ComparisonConfig, numbers: Sequence[float]) -> float:
    """Points, or for a cost the logarithm of the ratio; less the margin."""
    if comparison.cost is not None:
        return math.log(numbers[1] / numbers[0]) - math.log(comparison.margin)
    first, second, *others = numbers
    return first - second - (others[0] - others[1] if others else 0.0) - comparison.margin


def _differences(pairs: Iterable[Pair]) -> dict[tuple[str, int], float]:
    return {(pair.language, pair.seed): pair.difference for pair in pairs}


def only(config: ClaimsConfig) -> dict[str, ClaimConfig]:
    """The claims that are asked for."""
    return {name: claim for name, claim in config.claims.items() if not config.only or name in config.only}


def searched_columns(comparisons: Iterable[ComparisonConfig]) -> list[str]:
    """All columns that comparisons of one table name, once each."""
    return list(dict.fromkeys(column for one in comparisons for column in (*one.columns, *one.against)))
