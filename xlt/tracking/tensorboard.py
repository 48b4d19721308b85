"""Writes a run's metrics and evaluations as event files of TensorBoard into its folder."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlt.compose import recorded
from xlt.engine.watching import Silence
from xlt.files import DamagedFileError, atomic_folder, read_sealed, write_sealed
from xlt.plan.planner import Run
from xlt.plan.store import RunStore

FOLDER = "tensorboard"
_FILE = "evaluations.json"
_FLUSH_SECONDS = 10


class TensorBoardRun(Silence):
    """A watcher that keeps event files in the folder `tensorboard` of a run: `tensorboard --logdir outputs/runs`.

    Each phase has curves of its own, `PHASE/loss` and so on, over the steps of the phase. Scores of evaluations are
    `evaluation/SOURCE/COMPOSITION/METRIC`, at step 0. When a run continues from its saved state, and when it is
    evaluated, the folder is made anew from the run's own files, so that no step is there twice and none is missing; the
    times in it are then those of the rewriting.

    Args:
        run: its folder is written to.
        store: has the folder.
    """

    def __init__(self, run: Run, store: RunStore) -> None:
        self._run, self._store = run, store
        self._folder = store.folder(run.fingerprint) / FOLDER
        self._writer: Any = None

    def metrics(self, phase: str, step: int, values: Mapping[str, float | None]) -> None:
        self._writer = self._writer or _writer(self._folder)
        _add(self._writer, phase, step, values)

    def rewind(self, lines: int) -> None:
        self._write()

    def evaluated(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        self.send()

    def is_complete(self) -> bool:
        """Returns whether the folder has everything that the store has of a trained run."""
        try:
            written = read_sealed(self._folder / _FILE).get("evaluations")
        except DamagedFileError:
            return False
        return written is not None and set(written) == set(self._store.evaluations(self._run.fingerprint))

    def send(self) -> None:
        """Writes the folder of a trained run anew."""
        self._write(whole=True)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, *, whole: bool = False) -> None:
        """Makes the folder anew from the files of the run; `whole`: of a trained run, with its evaluations."""
        self.close()
        records = self._store.metrics(self._run.fingerprint)
        evaluations = self._store.evaluations(self._run.fingerprint) if whole else {}
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(self._folder) as folder:
            writer = _writer(folder)
            for record in records:
                _add(writer, record.pop("phase"), record.pop("step"), record)
            for record in evaluations.values():
                about = f"evaluation/{record['source']}/{record['composition']}"
                _add(writer, about, 0, record["metrics"])
            writer.add_text("config", f"```json\n{json.dumps(recorded(self._run.config), indent=1, default=str)}\n```")
            writer.close()
            if whole:
                write_sealed(folder / _FILE, {"evaluations": sorted(evaluations)})


def _writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    make: Any = SummaryWriter
    return make(log_dir=str(folder), flush_secs=_FLUSH_SECONDS)


def _add(writer: Any, about: str, step: int, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, (int, float)) and math.isfinite(value):
            writer.add_scalar(f"{about}/{name}", value, step)
