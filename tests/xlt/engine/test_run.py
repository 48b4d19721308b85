"""What a run refuses of the modules that it begins with or is taught by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from xlt.engine.run import ModuleFile, _check_labels
from xlt.modules import ModuleFileError, ModuleHeader, SparseDelta
from xlt.tasks.task import Task


def test_a_head_with_other_labels_or_in_another_order_is_refused(
    make_task: Callable[..., Task], module_header: Callable[..., ModuleHeader]
) -> None:
    task, file = make_task("tagging"), ModuleFile(Path("m.safetensors"))

    def module(labels: list[str]) -> SparseDelta:
        return SparseDelta(dataclasses.replace(module_header(), provenance={"labels": labels}), {}, {})

    _check_labels(module(task.labels()), file, task)
    _check_labels(module([]), file, task)  # no head, or a module made elsewhere
    for labels in (task.labels()[::-1], task.labels()[1:]):
        with pytest.raises(ModuleFileError, match=r"its head has the labels .*; the task's are "):
            _check_labels(module(labels), file, task)
