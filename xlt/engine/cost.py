"""The cost of inference, in operations per example, which is the same on every machine (thesis Table 5.7)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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


class _Tensor(NamedTuple):
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@dataclass
class Counted:
    """Operations that were counted for models that do the same ones, whatever their weights.

    Attributes:
        batches: shapes of a batch's tensors, and its number of predictions -> operations.
        bodies: the model's device, and shapes of the arguments of `TransferModel.encode` -> its operations, and what it
            returns, without values. Batches of one length differ in their number of predictions, which only the head
            sees.
    """

    batches: dict[tuple[Any, ...], int] = field(default_factory=dict)
    bodies: dict[tuple[Any, ...], tuple[int, _Tensor]] = field(default_factory=dict)


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
    return Counted()


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
            are added. A task that writes texts does not use it, because how many operations it needs depends on what
            it writes. None: count those of every row.
    """
    training = model.training
    model.eval()
    rows = source.features
    count = _EXAMPLES_WRITTEN if task.writes else _EXAMPLES
    row_numbers = sorted({round(at * (len(rows) - 1) / max(count - 1, 1)) for at in range(count)})
    flops = 0
    try:
        for at in row_numbers:
            batch = task.collate([rows[at]], encoder, stream(0, "evaluation"))
            flops += _operations(model, task, batch, [rows[at]], None if task.writes else counted)
    finally:
        model.train(training)
    return {**parameter_report(model), "flops": flops / len(row_numbers)}


def _operations(
    model: TransferModel, task: Task, batch: dict[str, Tensor], rows: list[Features], counted: Counted | None
) -> int:
    """Returns the operations of a batch; counts only what `counted` does not have, and adds it there."""
    alike = (_shapes(batch), task.targets(batch))
    if counted is not None and alike in counted.batches:
        return counted.batches[alike]
    # torch's counter does not count fused attention on a CPU; plain attention computes the same products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        with nullcontext(list[int]()) if counted is None else _known_bodies(model, counted, counter) as known:
            task.score(model, {name: part.to(model.device) for name, part in batch.items()}, rows)
        operations = int(counter.get_total_flops()) + sum(known)
    if counted is not None:
        counted.batches[alike] = operations
    return operations


@contextmanager
def _known_bodies(model: TransferModel, counted: Counted, counter: FlopCounterMode) -> Iterator[list[int]]:
    """Makes `model.encode` return zeros where the operations for such arguments are known; the head then has its input.

    Yields:
        the operations of the calls that were not computed.
    """
    encode, known = model.encode, list[int]()

    def counting(*args: Any, **named: Any) -> Tensor:
        alike = (model.device, _shapes(dict(enumerate(args))), _shapes(named))
        if alike in counted.bodies:
            operations, like = counted.bodies[alike]
            known.append(operations)
            return torch.zeros(like.shape, dtype=like.dtype, device=like.device)
        before = counter.get_total_flops()
        hidden = encode(*args, **named)
        counted.bodies[alike] = (
            int(counter.get_total_flops() - before),
            _Tensor(hidden.shape, hidden.dtype, hidden.device),
        )
        return hidden

    model.encode = counting  # type: ignore[method-assign]
    try:
        yield known
    finally:
        del model.encode


def _shapes(tensors: Mapping[Any, Tensor | None]) -> tuple[Any, ...]:
    return tuple((name, None if part is None else tuple(part.shape)) for name, part in tensors.items())
