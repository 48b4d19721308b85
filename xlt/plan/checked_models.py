"""Remembers what was found out about models, so that a plan does not load or build them again to look.

What is found is kept in the store's cache, by the state of the model's files, the code, and all else that it depends
on. Only a plan that would look at the same again uses it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt.compose import plain
from xlt.config import ModelConfig, RunConfig
from xlt.data.source_report import SourceReport
from xlt.data.sources import digest
from xlt.engine.build import task_class, task_configs
from xlt.engine.model_stamp import model_stamp
from xlt.files import write_json
from xlt.source_code import installed

_CHECKS = ("xlt.plan.model_checks.model_faults", "xlt.plan.model_checks.model_notes")
_TOKENIZER = ("xlt.data.encoding.Encoder", "xlt.models.loading.load_tokenizer")


@dataclass(frozen=True)
class _Found:
    """A JSON value in the cache of a store; without a file, nothing is known and nothing is kept."""

    file: Path | None

    def value(self) -> Any:
        """Returns the value; None if there is none."""
        if self.file is None:
            return None
        try:
            return json.loads(self.file.read_text(encoding="utf-8"))["found"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, value: Any) -> None:
        """Writes the value. A plan alone makes no folder for a store."""
        if self.file is None or not self.file.parents[1].is_dir():
            return
        with contextlib.suppress(OSError):  # the store may be read-only
            self.file.parent.mkdir(exist_ok=True)
            write_json(self.file, {"found": value})


def _found(root: Path, about: str, model: ModelConfig, code: Sequence[str], *parts: Any) -> _Found:
    stamp = model_stamp(model)
    if stamp is None:
        return _Found(None)
    key = {"model": stamp, "path": model.path, "code": installed().digests(code), "parts": parts}
    return _Found(root / "cache" / "checked" / f"{about}-{digest(key)}")


class CheckedModel:
    """A model, and what a run would do with it.

    Args:
        root: folder of the store.
        config: of the run.
        model_run: config of the run that makes the base model; None if no run does.
    """

    def __init__(self, root: Path, config: RunConfig, model_run: RunConfig | None) -> None:
        base = config if model_run is None or config.model.path is not None else model_run
        task = task_class(config.task)
        if task.translates:  # what a translator needs depends on the data
            self._found = _Found(None)
            return
        settings = [plain(part) for part in (config.model, base.model, config.method, config.task)]
        tasks = [config.task._target_, *(one._target_ for one in task_configs(config.task).values())]
        seed = config.seed if task.needs_lm_head else None  # the notes say it
        code = [*_CHECKS, config.method._target_, *tasks]
        self._found = _found(root, "model", base.model, code, settings, seed)

    def notes(self) -> list[str] | None:
        """Returns the notes about a model that was found without faults; None if it was not."""
        notes = self._found.value()
        return notes if isinstance(notes, list) and all(isinstance(note, str) for note in notes) else None

    def has_no_faults(self, notes: Sequence[str]) -> None:
        """Keeps that the model has no faults, and the notes about it."""
        self._found.keep(list(notes))


def forms_matter(root: Path, model: ModelConfig, reports: Sequence[SourceReport], look: Callable[[], bool]) -> bool:
    """Returns whether a model's tokenizer cuts the samples of sources in one Unicode form otherwise than in another.

    Args:
        root: folder of the store.
        model: settings of the model.
        reports: of the sources.
        look: finds out, with the tokenizer.
    """
    found = _found(root, "forms", model, _TOKENIZER, [report.sample for report in reports])
    known = found.value()
    if not isinstance(known, bool):
        found.keep(known := look())
    return known
