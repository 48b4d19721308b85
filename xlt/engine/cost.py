"""The cost of inference, in operations per example, which is the same on every machine (thesis Table 5.7)."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from xlt.data.encoding import Encoder
from xlt.data.mix import Features, LoadedSource
from xlt.data.streams import stream
from xlt.models.transfer import TransferModel, parameter_report
from xlt.modules import ModuleArtefact
from xlt.tasks.task import Task

_EXAMPLES = 16
_EXAMPLES_WRITTEN = 2  # fewer, because writing is token by token and each product is counted

Counted = dict[tuple[Any, ...], int]
"""Shapes of a batch's tensors, and its number of predictions -> operations, for models that do the same operations."""


def counted_before(model: TransferModel, task: Task, modules: Iterable[ModuleArtefact]) -> Counted:
    """Returns what this process has counted for models of the same layers and sizes, whatever their weights.

    The runs of a table, and the languages of a run, mostly differ in their weights only.

    Args:
        model: with or without `modules` in it.
        task: the task.
        modules: those to evaluate.
    """
    config = model.backbone.config.to_json_string()  # type: ignore[union-attr,operator]
    kind = f"{type(task).__module__}.{type(task).__qualname__}"
    sizes = str([(name, *parameter.shape) for name, parameter in model.named_parameters()])  # str(model) lacks some
    return _counted(str(model), sizes, config, kind, task.head_name, *(module.layers() for module in modules))


@functools.cache
def _counted(*about: str | None) -> Counted:
    return {}


@torch.no_grad()
def inference_cost(
    model: TransferModel, task: Task, source: LoadedSource, encoder: Encoder, counted: Counted | None = None
) -> dict[str, float]:
    """Counts the parameters of the body, and the operations per example (`flops`) including heads, as a mean.

    Args:
        model: in any mode, which does not change.
        task: the task.
        source: some of its rows, spread evenly, are each a batch of their own, so that padding does not count.
        encoder: the tokenizer.
        counted: operations of rows of models that do the same, which are not counted again and to which this source's
            are added. A task that writes texts does not use it, because how many operations
            it needs depends on what it writes. None: count those of every row.
    """
    counted = {} if counted is None or task.writes else counted
    training = model.training
    model.eval()
    rows = source.features
    count = _EXAMPLES_WRITTEN if task.writes else _EXAMPLES
    row_numbers = sorted({round(at * (len(rows) - 1) / max(count - 1, 1)) for at in range(count)})
    flops = 0
    try:
        for at in row_numbers:
            batch = task.collate([rows[at]], encoder, stream(0, "evaluation"))
            alike = (tuple((name, tuple(part.shape)) for name, part in batch.items()), task.targets(batch))
            if alike not in counted or task.writes:
                counted[alike] = _operations(model, task, batch, [rows[at]])
            flops += counted[alike]
    finally:
        model.train(training)
    return {**parameter_report(model), "flops": flops / len(row_numbers)}


def _operations(model: TransferModel, task: Task, batch: dict[str, Tensor], rows: list[Features]) -> int:
    """Counts the operations of a batch."""
    # torch's counter does not count fused attention on a CPU; plain attention computes the same products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        task.score(model, {name: part.to(model.device) for name, part in batch.items()}, rows)
    return int(counter.get_total_flops())
