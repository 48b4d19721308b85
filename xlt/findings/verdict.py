"""Judges whether differences are above 0: an exact permutation test, a bootstrap interval, and a verdict in a word."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

HOLDS, FAILS, CLOSE, TOO_FEW, UNTESTED = "holds", "does not hold", "too close to call", "too few pairs", "not tested"
WORDS = (HOLDS, FAILS, CLOSE, TOO_FEW, UNTESTED)
_SEED = 0

Differences = Mapping[tuple[str, int], float]
"""(language, seed) -> difference in the claimed direction."""


@dataclass(frozen=True)
class Trial:
    """The settings of a statistical test.

    Attributes:
        level: p-value at which the one-sided test decides, in either direction.
        confidence: coverage of the two-sided bootstrap interval, for example 0.95.
        resamples: number of bootstrap samples, and the largest number of permutations.
        enough_languages: from this many languages on, a unit is a language (its mean over seeds); with fewer
            languages, a unit is a pair of language and seed. Two-group tests use languages as units whenever that
            can reach the level.
    """

    level: float
    confidence: float
    resamples: int
    enough_languages: int


@dataclass(frozen=True)
class Verdict:
    """The result of judging differences.

    Attributes:
        word: one of WORDS; TOO_FEW if no result with so few pairs could reach the level.
        units, unit: the number of units that were permuted, and their kind: "languages" or "languages x seeds".
        mean: mean difference over the units.
        low, high: the bootstrap interval of the mean; None for fewer than two units.
        p, p_below: probability of a mean at least as large, or as small, if signs (or groups) were random; None
            without units, and for counts.
    """

    word: str
    units: int = 0
    unit: str = ""
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_below: float | None = None


def judge(differences: Differences, trial: Trial) -> Verdict:
    """Judges whether paired differences are above 0."""
    return _judge((differences,), trial)


def judge_groups(first: Differences, second: Differences, trial: Trial) -> Verdict:
    """Judges whether the first group's differences are above the second group's; the groups are not paired."""
    return _judge((first, second), trial)


def judge_counted(differences: Differences, trial: Trial) -> Verdict:
    """Judges differences of a count, which is the same for every seed: all languages must be above 0, or all below.

    A unit is a language, even if there are few. If the seeds of a language differ after all, their means are tested.
    """
    by_language = _by_language(differences)
    if not by_language:
        return Verdict(UNTESTED)
    means = _means(differences)
    if any(not math.isclose(min(values), max(values), rel_tol=1e-9, abs_tol=1e-9) for values in by_language.values()):
        return _decide((means,), "languages", trial)
    word = HOLDS if means.min() > 0 else FAILS if means.max() < 0 else CLOSE
    return Verdict(word, len(means), "languages", float(means.mean()))


def smallest_p(sizes: Sequence[int]) -> float:
    """Returns the smallest p-value possible: 1 / number of sign assignments, or of divisions into two groups."""
    return 1 / 2 ** sizes[0] if len(sizes) == 1 else 1 / math.comb(sum(sizes), sizes[0])


def holm(values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for the number of tests by Holm's step-down method."""
    corrected, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = largest
    return corrected


def _judge(groups: tuple[Differences, ...], trial: Trial) -> Verdict:
    if not all(groups):
        return Verdict(UNTESTED)
    means = [_means(group) for group in groups]
    sizes = [len(group_means) for group_means in means]
    if min(sizes) >= trial.enough_languages or (len(groups) == 2 and smallest_p(sizes) <= trial.level):
        return _decide(tuple(means), "languages", trial)
    return _decide(tuple(np.array(list(group.values()), dtype=float) for group in groups), "languages x seeds", trial)


def _means(differences: Differences) -> Any:
    """Returns the mean over seeds of each language."""
    return np.array([np.mean(values) for values in _by_language(differences).values()])


def _by_language(differences: Differences) -> dict[str, list[float]]:
    by_language: dict[str, list[float]] = {}
    for (language, _), value in differences.items():
        by_language.setdefault(language, []).append(value)
    return by_language


def _decide(samples: tuple[Any, ...], unit: str, trial: Trial) -> Verdict:
    """Judges the mean of one sample, or the difference of two means; it holds if `p` and the interval agree."""
    paired = len(samples) == 1

    def statistic(*drawn: Any, axis: int = -1) -> Any:
        means = [np.mean(sample, axis=axis) for sample in drawn]
        return means[0] if paired else means[0] - means[1]

    units = sum(sample.size for sample in samples)
    mean = float(statistic(*samples))
    if min(sample.size for sample in samples) < 2:
        return Verdict(TOO_FEW, units, unit, mean, None, None, 0.5 if mean > 0 else 1.0, 0.5 if mean < 0 else 1.0)
    rules: dict[str, Any] = {"vectorized": True, "n_resamples": trial.resamples}
    above, below = (
        float(
            stats.permutation_test(
                samples,
                statistic,
                permutation_type="samples" if paired else "independent",
                alternative=side,
                rng=np.random.default_rng(_SEED),
                **rules,
            ).pvalue
        )
        for side in ("greater", "less")
    )
    interval = stats.bootstrap(
        samples,
        statistic,
        confidence_level=trial.confidence,
        method="percentile",
        rng=np.random.default_rng(_SEED),
        **rules,
    ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    word = CLOSE
    if smallest_p([sample.size for sample in samples]) > trial.level:
        word = TOO_FEW
    elif above <= trial.level and low > 0:
        word = HOLDS
    elif below <= trial.level and high < 0:
        word = FAILS
    return Verdict(word, units, unit, mean, low, high, above, below)
