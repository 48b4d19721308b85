"""Says why a planned run is new: in which parts its identity differs from that of the nearest finished run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xlt.plan.store import RunStore

_ABSENT = "(nothing)"


@dataclass(frozen=True)
class Difference:
    """A part of two identities that differs.

    Attributes:
        part: names of the part, with dots between them.
        mine, other: its values; `(nothing)` where an identity has no such part.
    """

    part: str
    mine: Any
    other: Any

    def __str__(self) -> str:
        return f"{self.part}: {_shown(self.mine)}, there {_shown(self.other)}"


@dataclass(frozen=True)
class Nearest:
    """The finished run whose identity differs least from another one.

    Attributes:
        fingerprint: of the finished run.
        kind, finished: of its manifest.
        differences: the parts that differ.
    """

    fingerprint: str
    kind: str
    finished: str
    differences: list[Difference]


def differences(mine: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    """Returns the parts in which two identities differ, in the order of their names."""
    ours, theirs = dict(_parts(mine)), dict(_parts(other))
    return [
        Difference(part, ours.get(part, _ABSENT), theirs.get(part, _ABSENT))
        for part in sorted(ours.keys() | theirs.keys())
        if ours.get(part, _ABSENT) != theirs.get(part, _ABSENT)
    ]


def nearest(store: RunStore, identity: Mapping[str, Any], kind: str, *, but: str | None = None) -> Nearest | None:
    """Returns the finished run with the fewest differences; None if the store has none.

    Runs of the same kind (experiment, method, model) come first; others are compared only if there are none.

    Args:
        store: of the runs.
        identity, kind: of the run that is compared.
        but: fingerprint of a run that is left out; None: none.
    """
    finished = {facts["fingerprint"]: facts for facts in store.finished().values() if facts["fingerprint"] != but}
    alike = {name: facts for name, facts in finished.items() if facts["kind"] == kind} or finished
    best: Nearest | None = None
    for fingerprint, facts in alike.items():
        other = store.manifest(fingerprint).get("identity")
        if not isinstance(other, Mapping):
            continue
        found = Nearest(fingerprint, facts["kind"], facts["finished"], differences(identity, other))
        if best is None or (len(found.differences), best.finished) < (len(best.differences), found.finished):
            best = found
    return best


def _parts(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _parts(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return f"{text[:57]}..." if len(text) > 60 else text
