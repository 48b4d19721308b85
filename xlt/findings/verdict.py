"""Whether paired differences are above nothing: an exact permutation test, a bootstrap interval, a word."""

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
    """How a comparison is judged.

    Attributes:
        level: of the one-sided test, in either direction.
        confidence: of the interval, two-sided.
        resamples: permutations where there are more than that, and bootstrap samples.
        enough_languages: from as many on, a language's mean over seeds is what is permuted and resampled; with
            fewer it is each language and seed. Of two groups it is languages, too, wherever these can decide.
    """

    level: float
    confidence: float
    resamples: int
    enough_languages: int


@dataclass(frozen=True)
class Verdict:
    """What the differences say.

    Attributes:
        word: one of WORDS; too few pairs: whatever they are, the level cannot be reached.
        units, unit: how many were permuted, and what they are: "languages" or "languages x seeds".
        mean: of the units.
        low, high: the bootstrap interval of the mean; None for fewer than two units.
        p, p_below: of a mean at least as large, or as small, were the signs (or the groups) drawn by lot; None
            without units, and for what is counted.
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
    """Whether differences are above 0."""
    return _judge((differences,), trial)


def judge_groups(first: Differences, second: Differences, trial: Trial) -> Verdict:
    """Whether the differences of the first languages are above those of the second, unpaired."""
    return _judge((first, second), trial)


def judge_counted(differences: Differences, trial: Trial) -> Verdict:
    """Whether differences of something counted, which no seed changes, are above 0: in every language, or in none.

    Seeds of a language are one unit, however few languages there are. If seeds do differ, it is a test of the means.
    """
    by_language = _by_language(differences)
    if not by_language:
        return Verdict(UNTESTED)
    means = _means(differences)
    if any(not math.isclose(min(of), max(of), rel_tol=1e-9, abs_tol=1e-9) for of in by_language.values()):
        return _decide((means,), "languages", trial)
    word = HOLDS if means.min() > 0 else FAILS if means.max() < 0 else CLOSE
    return Verdict(word, len(means), "languages", float(means.mean()))


def smallest_p(sizes: Sequence[int]) -> float:
    """The smallest p-value that units can have: one assignment of signs of all, or one division into two groups."""
    return 1 / 2 ** sizes[0] if len(sizes) == 1 else 1 / math.comb(sum(sizes), sizes[0])


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values as they count beside all the others."""
    corrected, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = largest
    return corrected


def _judge(groups: tuple[Differences, ...], trial: Trial) -> Verdict:
    if not all(groups):
        return Verdict(UNTESTED)
    means = [_means(of) for of in groups]
    enough = min(len(of) for of in means) >= trial.enough_languages
    if enough or (len(groups) == 2 and smallest_p([len(of) for of in means]) <= trial.level):
        return _decide(tuple(means), "languages", trial)
    return _decide(tuple(np.array(list(of.values()), dtype=float) for of in groups), "languages x seeds", trial)


def _means(differences: Differences) -> Any:
    """A language's mean over seeds, for each language."""
    return np.array([np.mean(values) for values in _by_language(differences).values()])


def _by_language(differences: Differences) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for (language, _), value in differences.items():
        found.setdefault(language, []).append(value)
    return found


def _decide(samples: tuple[Any, ...], unit: str, trial: Trial) -> Verdict:
    """Mean of one sample, or difference of two means: holds if `p` and the interval both say that it is above 0."""
    paired = len(samples) == 1

    def statistic(*drawn: Any, axis: int = -1) -> Any:
        means = [np.mean(one, axis=axis) for one in drawn]
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
    drawn = stats.bootstrap(
        samples,
        statistic,
        confidence_level=trial.confidence,
        method="percentile",
        rng=np.random.default_rng(_SEED),
        **rules,
    ).confidence_interval
    low, high = float(drawn.low), float(drawn.high)
    word = CLOSE
    if smallest_p([sample.size for sample in samples]) > trial.level:
        word = TOO_FEW
    elif above <= trial.level and low > 0:
        word = HOLDS
    elif below <= trial.level and high < 0:
        word = FAILS
    return Verdict(word, units, unit, mean, low, high, above, below)
