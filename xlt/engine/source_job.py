"""The interface of the job of a run that makes the examples of a source instead of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from xlt.config import RunConfig, SourceConfig
from xlt.engine.run import Standing
from xlt.engine.watching import Watcher


class SourceJob(Protocol):
    """The interface of a job that makes the examples of a source from those of its original (`xlt.data.transforms`).

    Attributes:
        verb: verb for people that says what the run does, for example "translate".
        noun: noun for people that says what the run makes, for example "translated source".
        source: the original source.
        settings: settings of the transform, a part of the source's config.
        languages: ISO 639-3 codes of the original's language and of the new one.
    """

    @property
    def verb(self) -> str: ...

    @property
    def noun(self) -> str: ...

    @property
    def source(self) -> SourceConfig: ...

    @property
    def settings(self) -> Any: ...

    @property
    def languages(self) -> Sequence[str]: ...

    def check(self) -> None:
        """Reads and checks the original, so that faults are reported early.

        Raises:
            UsageError: an example cannot be transformed.
        """

    def carry_out(self, config: RunConfig, standing: Standing, folder: Path, watcher: Watcher) -> dict[str, Any]:
        """Makes the file of examples, or the rest of it; writes it and, at last, `result.json`.

        Args:
            config: of the run.
            standing: the models and modules that the run needs.
            folder: of the run.
            watcher: receives the progress.
        Returns:
            The content of `result.json`.
        Raises:
            UsageError: the source or the model cannot be used.
            Interrupted: a signal stopped the job; the examples made so far are kept.
        """
