"""The module that a run will leave: its header, and a rehearsal of its export before the training."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

import xlt
from xlt.config import RunConfig
from xlt.engine.training import Trainer
from xlt.errors import UsageError
from xlt.methods.method import Method
from xlt.modules import ModuleHeader


def module_header(
    config: RunConfig, method: Method, task: str, *, provenance: Mapping[str, Any], **facts: Any
) -> ModuleHeader:
    """Returns the header of the module that a run makes.

    Args:
        config: of the run.
        method: its method.
        task: name of its task.
        provenance: further facts about the origin, JSON values.
        facts: further fields of the header.
    Raises:
        ValueError: a name or a code in the config cannot be in a header.
    """
    return ModuleHeader(
        kind=method.leaves.kind,
        method=method.name,
        language=config.language,
        task=None if config.language is not None else task,
        provenance={
            "xlt": xlt.__version__,
            "experiment": config.experiment_name,
            **facts_for_use(config),
            **provenance,
        },
        **facts,
    )


def facts_for_use(config: RunConfig) -> dict[str, Any]:
    """Returns what a module's header says so that the module can be used without the config of its run.

    Returns:
        `model`: path, revision and what else changes the base model; keys with usual values are left out. `languages`:
        of the training sources. For a task module also `task`: the task's settings, with the class as `_target_`.
    """
    model = config.model
    about = {
        "path": model.path,
        "revision": model.revision,
        "dtype": None if model.dtype == "float32" else model.dtype,
        "new_languages": dict(model.new_languages) or None,
        "quantise": None if model.quantise is None else True,
    }
    facts: dict[str, Any] = {
        "model": {name: value for name, value in about.items() if value is not None},
        "languages": sorted({source.language for source in config.data.sources.values()}),
    }
    if config.language is None:
        facts["task"] = dataclasses.asdict(config.task)
    return facts


def rehearse_export(trainer: Trainer, header: Callable[[], ModuleHeader], output_dir: Path) -> None:
    """Exports the untrained module and throws it away: what cannot be stored fails now, not after the training.

    It attaches the method for its first phase, so that it is only for a run that has no saved state; `Trainer.train`
    does not attach it again. Nothing is written.

    Args:
        trainer: of the run.
        header: returns the header of the module, once the method is attached.
        output_dir: the folder below which the run's files will be.
    Raises:
        UsageError: the method cannot export its module, no file could hold it, or there is no space for the files.
    """
    method, processes = trainer.method, trainer.processes
    trainer.attach_first_phase()
    try:
        method.export(trainer.model, header()).check_storable()
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"method={method.name}: the module of this run could not be stored: {error}") from error
    fault = processes.from_leader(_space_fault(trainer, output_dir) if processes.leads else None)
    if fault is not None:
        raise UsageError(fault)


def _space_fault(trainer: Trainer, folder: Path) -> str | None:
    """Returns that there is less space than the run surely needs; None if there is enough.

    The best checkpoint and the saved state, each with the trainable tensors, are there at the same time. Some methods
    also leave the whole model.
    """
    needed = 2 * _bytes(trainer.method.trainable().values())
    if trainer.method.leaves_checkpoint:
        needed += _bytes(trainer.model.parameters())
    free = shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free
    if free >= needed:
        return None
    return (
        f"output_dir={folder}: {free / 1e9:.1f} GB are free there, but this run writes at least {needed / 1e9:.1f} GB; "
        "remove files, or give another folder"
    )


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
