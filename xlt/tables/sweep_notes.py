"""Lines below the results of a sweep: which jobs are one run, and what the mean scores of jobs are means over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from xlt.compose.overrides import key_of

_MOST_GROUPS = 8
_MOST_SOURCES = 8


@dataclass(frozen=True)
class PlannedJob:
    """One job of a sweep, as planned.

    Attributes:
        number: of the job, as Hydra counts.
        words: its overrides.
        result: equal for jobs that have the same evaluations of the same run.
    """

    number: int
    words: Sequence[str]
    result: Hashable


def same_result_lines(jobs: Sequence[PlannedJob]) -> list[str]:
    """Returns a line for each set of keys by which jobs differ that nevertheless have one result.

    Without it, equal scores under different names would look like a finding.
    """
    groups: dict[Hashable, list[PlannedJob]] = defaultdict(list)
    for job in jobs:
        groups[job.result].append(job)
    by_keys: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for group in (group for group in groups.values() if len(group) > 1):
        common = set.intersection(*({*job.words} for job in group))
        words = (word for job in group for word in job.words if word not in common)
        keys = tuple(dict.fromkeys(map(key_of, words)))
        by_keys[keys].append(" = ".join(str(job.number) for job in group))
    return [
        f"jobs {_cut(equal, _MOST_GROUPS)} have one result each: "
        + (f"{' and '.join(keys)} change{'s' if len(keys) == 1 else ''} nothing in it" if keys else "asked for twice")
        for keys, equal in by_keys.items()
    ]


def mean_lines(averaged: Mapping[int, Mapping[str, Sequence[str]]], metrics: Mapping[int, str]) -> list[str]:
    """Returns lines that say what the mean scores of jobs are: one if it is the same for all jobs and compositions.

    Args:
        averaged: number of a job -> label of a composition -> evaluation sources over which its score is the mean.
        metrics: number of a job -> its metric.
    """
    jobs: dict[tuple[str, tuple[str, ...]], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, by_label in averaged.items():
        for label, sources in by_label.items():
            jobs[metrics[number], tuple(sources)][label].append(number)
    lines = []
    for (metric, sources), labels in jobs.items():
        what = f"{metric}, mean over {_cut(sources, _MOST_SOURCES)}" if len(sources) > 1 else f"{metric}, {sources[0]}"
        where = (
            f"{label} of jobs {_cut([str(number) for number in numbers], _MOST_GROUPS)}"
            for label, numbers in labels.items()
        )
        lines.append(what if len(jobs) == 1 else f"{what}: {'; '.join(where)}")
    return lines


def _cut(names: Sequence[str], most: int) -> str:
    """Returns names with commas; of more than `most`, only the first ones and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
