"""Removes runs from a store: which runs stand on which, what would go, and how large it is."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt.errors import UsageError
from xlt.plan.store import RunStore
from xlt.writers import temporary_path

_DIGITS = 12
_MOST_NAMED = 6


@dataclass(frozen=True)
class StoredRun:
    """A run in the store.

    Attributes:
        name: of its folder, the first digits of its fingerprint.
        kind: experiment, method and model; for a run that is not finished, a word that says so.
        size_bytes: of all its files together.
    """

    name: str
    kind: str
    size_bytes: int


def runs_to_remove(
    store: RunStore, beginnings: Sequence[str], *, with_dependents: bool = False, anyway: bool = False
) -> list[StoredRun]:
    """Returns the runs to remove, in the order in which they can be: first those that stand on others.

    A run stands on the runs whose models and modules it was trained with, and on those whose modules its evaluations
    used.

    Args:
        store: of the runs.
        beginnings: of fingerprints; each must be that of one run.
        with_dependents: also take the runs that stand on those that are named.
        anyway: take only the runs that are named, although others stand on them.
    Raises:
        UsageError: a beginning is that of no run or of several; another process works on a run; or a run that is kept
            stands on one of them.
    """
    there = sorted(folder.name for folder in store.runs.glob("[0-9a-f]*") if folder.is_dir())
    named: dict[str, None] = {}
    faults = []
    for beginning in beginnings:
        found = [name for name in there if name.startswith(beginning.lower()[:_DIGITS])]
        if len(found) == 1 and beginning:
            named[found[0]] = None
        else:
            what = f"{len(found)} runs begin so: {_some(found)}" if found else f"no run in {store.runs} begins so"
            faults.append(f"{beginning}: {what}")
    if faults:
        raise UsageError(*faults)
    dependents = _dependents(store, there)
    chosen = list(_with_dependents(named, dependents)) if with_dependents else list(named)
    for name in chosen:
        kept = sorted(dependents[name] - set(chosen))
        if kept and not anyway:
            faults.append(
                f"{name}: {len(kept)} runs that are kept stand on it: {_some(kept)}; --with-dependents removes them as "
                "well, --anyway removes only those that are named"
            )
        if store.is_worked_on(name):
            faults.append(f"{name}: another process works on this run; stop it first, or wait until it has ended")
    if faults:
        raise UsageError(*faults)
    return [
        StoredRun(name, _kind(store, name), _size(store.folder(name))) for name in _topmost_first(chosen, dependents)
    ]


def remove_runs(store: RunStore, runs: Iterable[StoredRun]) -> Iterator[StoredRun]:
    """Removes runs one after the other, each as a whole; yields each run after it was removed.

    If the process is killed, the files of at most one run are left under a temporary name, which the next command
    removes.

    Raises:
        UsageError: another process has begun to work on a run; the runs before it are removed.
    """
    for run in runs:
        with store.lock_if_free(run.name) as is_mine:
            if not is_mine:
                raise UsageError(f"{run.name}: another process has begun to work on this run; it stays")
            folder = store.folder(run.name)
            leaving = temporary_path(folder)
            folder.rename(leaving)
            shutil.rmtree(leaving)
        yield run


def _dependents(store: RunStore, names: Iterable[str]) -> dict[str, set[str]]:
    """Returns run -> the runs that stand on it."""
    dependents: dict[str, set[str]] = defaultdict(set)
    for name in names:
        needed = {str(fingerprint)[:_DIGITS] for fingerprint in store.manifest(name).get("depends_on", {}).values()}
        for record in store.evaluations(name).values():
            needed |= {text[:_DIGITS] for text in _texts(record.get("identity"))}
        for other in needed - {name}:
            dependents[other].add(name)
    return dependents


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _with_dependents(names: Iterable[str], dependents: dict[str, set[str]]) -> dict[str, None]:
    chosen: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        if (name := waiting.pop()) not in chosen:
            chosen[name] = None
            waiting += sorted(dependents[name])
    return chosen


def _topmost_first(names: Iterable[str], dependents: dict[str, set[str]]) -> list[str]:
    """Returns the names so that each comes after the runs that stand on it."""
    order: dict[str, None] = {}
    given = set(names)

    def take(name: str, above: frozenset[str]) -> None:
        for other in sorted(dependents[name] & given - above):
            take(other, above | {name})
        order.setdefault(name)

    for name in sorted(given):
        take(name, frozenset())
    return list(order)


def _kind(store: RunStore, name: str) -> str:
    return str(store.manifest(name).get("kind") or ("finished" if store.has_result(name) else "not finished"))


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir() or file.is_symlink())


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
