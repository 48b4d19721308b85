"""Weights & Biases: online, offline, or not at all. The client is imported only where a run asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlt.config import UsageError


class WandbRun:
    """Sends a run's metrics to W&B under the run's fingerprint, so that a resumed run goes on in the same one.

    Args:
        mode: online or offline.
        project, label: where and as what it shows.
        fingerprint: id of the run.
        settings: the whole config.
        folder: for offline files.
    Raises:
        UsageError: the client is not installed.
    """

    def __init__(
        self, mode: str, project: str, label: str, fingerprint: str, settings: dict[str, Any], folder: Path
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UsageError(f"tracker.wandb={mode}: the client is not installed; pip install 'xlt[wandb]'") from error
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            mode=mode,
            project=project,
            name=label,
            id=fingerprint[:16],
            resume="allow",
            config=settings,
            dir=str(folder),
        )
        self._phase_start = 0

    def begin_phase(self, name: str, start: int, steps: int) -> None:
        self._run.define_metric(f"{name}/step")
        self._run.define_metric(f"{name}/*", step_metric=f"{name}/step")

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        self._run.log({f"{phase}/step": step, **{f"{phase}/{name}": value for name, value in values.items()}})

    def note(self, message: str) -> None: ...

    def rewind(self, lines: int) -> None: ...

    def written(self) -> int:
        return 0

    def close(self) -> None:
        self._run.finish()
