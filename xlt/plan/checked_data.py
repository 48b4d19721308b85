"""The data of a run as a plan checks it: what an earlier command has found without faults is not read again.

`RunData` keeps this for sources that are there. Here it is kept for the originals of sources that other runs must make,
and for training sources that share no text with evaluation data. Each fact is an empty file in the store's cache, named
by a digest of all that it depends on: the content of the data, how they are read, and the code. What lies here is no
part of a run's identity, since it changes no result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import xlt.engine.run
from xlt.config import RunConfig
from xlt.data.planned import PlannedData
from xlt.data.selection import readable
from xlt.data.sources import digest
from xlt.engine.run_data import RunData
from xlt.files import write_json
from xlt.source_code import installed

_LEAKS = ("xlt.data.leaks.EvaluationTexts", "xlt.data.leaks.leak_fault")

_FOUND: set[Path] = set()
"""What this process has found: files that exist, or would if the store had a cache."""


class CheckedData(RunData):
    """The data of a run, of which a plan reads no more than is new; see `RunData`."""

    def leaks(self, learners: Iterable[tuple[str, RunData]]) -> list[str]:
        """Returns a line for each training source of other runs that has texts of this run's evaluation data."""
        evaluation = [self._readable_identity("evaluation", name) for name in self.sources("evaluation")]
        code = installed().digests(_LEAKS)
        lines = []
        for prefix, learner in learners:
            learned = [learner._readable_identity("sources", name) for name in learner.sources("sources")]
            found = self._cache / "checked" / f"apart-{digest([evaluation, learned, code])}"
            if _is_known(found):
                continue
            faults = super().leaks([(prefix, learner)])
            lines += faults
            if not faults:
                self._keep(found)
        return lines

    def _check(self, part: str, name: str) -> None:
        source = self._selection.data.part(part)[name]
        if readable(source) is source:
            super()._check(part, name)
            return
        found = self._cache / "checked" / f"original-{digest([part, self._readable_identity(part, name)])}"
        if not _is_known(found):
            super()._check(part, name)
            self._keep(found)

    def _keep(self, found: Path) -> None:
        _FOUND.add(found)
        if self._cache.is_dir():  # a plan alone makes no folder
            with contextlib.suppress(OSError):  # the store may be read-only
                found.parent.mkdir(exist_ok=True)
                write_json(found, {})


def _is_known(found: Path) -> bool:
    return found in _FOUND or found.exists()


def preflight(config: RunConfig, planned: PlannedData) -> RunData:
    """Reads and checks a run's data before a model is loaded; see `xlt.engine.run.preflight`."""
    return xlt.engine.run.preflight(config, planned, CheckedData)
