"""What the rest of xlt knows of a run that makes a source's examples instead of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from xlt.config import RunConfig, SourceConfig
from xlt.engine.run import Standing
from xlt.engine.watching import Watcher


class SourceJob(Protocol):
    """Makes the examples of a source out of those of its original, by a model (`xlt.data.transforms`).

    Attributes:
        verb: what the run does, for people: "translate".
        noun: what the run leaves, for people: "translated source".
        source: the original.
        settings: the transform's settings, a part of the source's config.
        languages: ISO 639-3 codes, of the original and of what is made.
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
        """Reads the original: what would be refused later is refused now.

        Raises:
            UsageError: an example cannot be transformed.
        """

    def carry_out(self, config: RunConfig, standing: Standing, folder: Path, watcher: Watcher) -> dict[str, Any]:
        """Makes what is left of the file; leaves it and, last, `result.json`.

        Args:
            config: of the run.
            standing: what it stands on.
            folder: of the run.
            watcher: receives the progress.
        Returns:
            The content of `result.json`.
        Raises:
            UsageError: the source or the model cannot be used for it.
            Interrupted: stopped by a signal; what was made so far is kept.
        """
