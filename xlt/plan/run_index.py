"""An index of the finished runs in a store: what a plan asks of all of them, without reading all their files.

For each run it has the facts that its manifest and its evaluation times give. The index is a file in the store. An
entry counts as long as the files have the size, the time and the number that they had when they were read; otherwise
they are read again. A damaged index is built again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xlt.data.sources import digest
from xlt.files import DamagedFileError, read_sealed, write_sealed
from xlt.plan.parsed_files import stamp_of

INDEX_FILE = ".locks/index.json"
"""Beside the locks, the other files of a store that are about no single run."""

_FORMAT = 2
_DEBUG = "debug="
_FINGERPRINT_DIGITS = 32

Facts = dict[str, Any]
Reader = Callable[[str], tuple[Facts | None, bool]]
"""Reads a run's file: its facts, None if it is damaged; and whether the index may keep them for later commands."""


@dataclass
class RunIndex:
    """The facts about the runs of a store.

    Args:
        runs: folder with a folder for each run.
        readers: name of a file -> reads the facts from this file of a run, given by the name of its folder.
        is_run: whether a folder of this name belongs to a run.
    """

    runs: Path
    readers: Mapping[str, Reader]
    is_run: Callable[[str], bool]
    _kept: dict[str, dict[str, Any]] | None = None
    _lasting: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what was read, because a store is sent to every worker with every job."""
        return {**vars(self), "_kept": None, "_lasting": {}}

    def facts(self, file: str) -> dict[str, Facts]:
        """Returns name of a run's folder -> facts of this file, for all runs that have it."""
        read, kept = self.readers[file], self._entries()
        facts: dict[str, Facts] = {}
        changed = False
        for name in self._names():
            if (found := stamp_of(Path(f"{self.runs}/{name}/{file}"))) is None:
                continue
            stamp = [*found]
            key = f"{name}/{file}"
            entry = kept.get(key)
            if entry is None or entry["stamp"] != stamp:
                values, lasts = read(name)
                entry = kept[key] = {"stamp": stamp, "facts": values}
                if lasts and values is not None:
                    self._lasting[key] = entry
                    changed = True
            if entry["facts"] is not None:
                facts[name] = entry["facts"]
        if changed:
            self._save()
        return facts

    def _names(self) -> list[str]:
        try:
            with os.scandir(self.runs) as entries:
                return sorted(entry.name for entry in entries if self.is_run(entry.name))
        except OSError:
            return []

    def _entries(self) -> dict[str, dict[str, Any]]:
        if self._kept is None:
            try:
                content = read_sealed(self.runs / INDEX_FILE)
                whole = content.get("entries", {}) if content.get("format") == _FORMAT else {}
            except DamagedFileError:
                whole = {}
            self._lasting = whole
            self._kept = dict(whole)
        return self._kept

    def _save(self) -> None:
        with suppress(OSError):  # the store may be read-only
            (self.runs / INDEX_FILE).parent.mkdir(exist_ok=True)
            write_sealed(self.runs / INDEX_FILE, {"format": _FORMAT, "entries": self._lasting})


def kind_with_debug(kind: str, config: Any) -> str:
    """Returns the kind of a run, with its choice of `debug` if it has one, because it takes a few steps only.

    Args:
        kind: a name that runs of similar duration share.
        config: of the run, as its manifest has it; anything else has no such choice.
    """
    choices = config.get("choices") if isinstance(config, Mapping) else None
    chosen = str(choices.get("debug", "none")) if isinstance(choices, Mapping) else "none"
    return kind if chosen == "none" or kind.startswith(_DEBUG) else f"{_DEBUG}{chosen}/{kind}"


def comparable(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what tells whether runs differ only in code: facts about an identity, as JSON values.

    Returns:
        `shape`, a digest of the identity without code and order of sources, in which every text that may be the
        fingerprint of a run is left out; `mentions`, these texts in their order; `order`, a digest of the order of the
        sources, None if it is not known.
    """
    own = {name: value for name, value in identity.items() if name != "code"}
    order = own.get("data", {}).get("order")
    if "data" in own:  # identities of earlier versions have no order of the sources
        own["data"] = {name: value for name, value in own["data"].items() if name != "order"}
    mentions: list[str] = []

    def without(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: without(part) for name, part in sorted(value.items())}
        if isinstance(value, list):
            return [without(part) for part in value]
        if isinstance(value, str) and len(value) >= _FINGERPRINT_DIGITS:
            fingerprint, *rest = value.split("/")
            if len(fingerprint) == _FINGERPRINT_DIGITS:
                mentions.append(fingerprint)
                return ["mention", *rest]
        return value

    shape = digest(without(own))
    return {"shape": shape, "mentions": mentions, "order": None if order is None else digest(order)}
