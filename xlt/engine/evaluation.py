"""Evaluates a model; checkpoint selection, final evaluation and tables all use this function."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from xlt.data.encoding import Encoder
from xlt.data.mix import Features, LoadedSource
from xlt.data.streams import stream
from xlt.models.transfer import TransferModel, parameter_report
from xlt.tasks.task import Task

_MOST_PADDING = 0.1  # of a batch's longest row
_FEWEST_TOKENS = {"cpu": 256, "cuda": 16_384}  # below it, a device computes a smaller batch in about the same time
# Several batches at once need the memory of several; with less work in a batch, Python's lock would stop the threads.
_MOST_AT_ONCE = 4
_LEAST_WORK = 5e8  # tokens of a batch times parameters outside the embeddings; it takes one core some 15 ms

T = TypeVar("T")
Rows = list[Features]
Batch = tuple[Rows, dict[str, Tensor]]


@torch.no_grad()
def evaluate(
    model: TransferModel,
    task: Task,
    sources: Sequence[LoadedSource],
    encoder: Encoder,
    batch_size: int,
    precision: str,
    announce: Callable[[Sequence[Mapping[str, str]]], None] | None = None,
    keep: Callable[[Sequence[Features], Sequence[Any]], None] | None = None,
) -> dict[str, float]:
    """Computes the task's metrics over all examples of the sources together.

    Examples are batched by length, the longest first, and a batch ends before a much shorter example, so that there is
    little padding. Random draws of the task come from the same stream at each call. The model's mode (training or
    evaluation) does not change.

    Args:
        model: with its modules applied.
        task: computes scores and metrics.
        sources: at least one example in all.
        encoder: the tokenizer.
        batch_size: number of examples of a batch, at most.
        precision: "fp32", or "bf16" for forward passes in bfloat16.
        announce: is called before a batch with the features that describe each of its examples, or with a single entry
            that holds for all; None: the model has its modules for all examples.
        keep: is called after each batch with its rows and the task's prediction for each; None: they are not kept.
    Returns:
        name -> value, as `Task.metrics` returns them.
    """
    training = model.training
    model.eval()
    try:
        rows = [
            row | {"example": (number, row.get("example", at))} if "example" in row or keep is not None else row
            for number, source in enumerate(sources)
            for at, row in enumerate(source.features)
        ]
        alike = all(source.described == sources[0].described for source in sources)
        if announce is not None and alike:
            announce([sources[0].described])
        each = [] if alike else [source.described for source in sources for _ in range(len(source.features))]
        of_row = {id(row): one for row, one in zip(rows, each, strict=False)}
        scores = []
        batched = _on_device(model, task, rows, encoder, batch_size)
        if announce is not None and not alike:
            batched = _announced(batched, lambda part: announce([of_row[id(row)] for row in part]))

        def scored(part: Rows, batch: dict[str, Tensor]) -> tuple[Rows, list[Any] | None, Any]:
            with autocast(model, precision):
                if keep is None:
                    return part, None, task.score(model, batch, part)
                predicted = task.predict(model, batch, part)
                return part, predicted, task.compare(predicted, batch, part)

        at_once = _at_once(model, rows, batch_size) if announce is None or alike else 1
        for part, predicted, score in _in_order(scored, batched, at_once):
            if keep is not None and predicted is not None:
                keep(part, predicted)
            scores.append(score)
        return task.metrics(scores)
    finally:
        model.train(training)


@torch.no_grad()
def predictions(
    model: TransferModel,
    task: Task,
    rows: Sequence[Features],
    encoder: Encoder,
    batch_size: int,
    precision: str,
    enter: Callable[[Rows], None] | None = None,
) -> Iterator[tuple[Rows, list[Any]]]:
    """Yields the rows in the batches in which `evaluate` evaluates them, and the task's prediction for each row.

    Args:
        model: in evaluation mode, with its modules applied.
        task: one that predicts.
        rows: of the task's `inputs`.
        encoder, batch_size, precision: as for `evaluate`.
        enter: is called before a batch with its rows, in the thread that computes it.
    """

    def predicted(part: Rows, batch: dict[str, Tensor]) -> tuple[Rows, list[Any]]:
        if enter is not None:
            enter(part)
        with autocast(model, precision):
            return part, task.predict(model, batch, part)

    batched = _on_device(model, task, rows, encoder, batch_size)
    yield from _in_order(predicted, batched, _at_once(model, rows, batch_size))


def _announced(batched: Iterable[Batch], announce: Callable[[Rows], None]) -> Iterator[Batch]:
    for part, batch in batched:
        announce(part)
        yield part, batch


def _at_once(model: TransferModel, rows: Sequence[Features], batch_size: int) -> int:
    """Returns how many batches are computed at the same time.

    On a CPU, two threads with a batch each need two thirds of the time of both threads with one batch, because only
    the large products of a batch occupy all of them. Models that write texts are left out: between two tokens there is
    too little to do.
    """
    threads = min(torch.get_num_threads(), _MOST_AT_ONCE)
    if threads == 1 or model.device.type != "cpu" or model.causal or model.decodes or not rows:
        return 1
    body = parameter_report(model)["body_parameters"]
    tokens = sum(len(row["input_ids"]) for row in rows) / len(rows) * min(batch_size, len(rows))
    return threads if body * tokens >= _LEAST_WORK else 1


def _in_order(work: Callable[[Rows, dict[str, Tensor]], T], batched: Iterable[Batch], at_once: int) -> Iterator[T]:
    """Yields the result of `work` for each batch, in their order.

    Args:
        work: computes without gradients; it is called in threads if several batches are computed at once.
        batched: is read by the calling thread.
        at_once: number of batches that are computed at the same time; they share torch's threads.
    """
    if at_once == 1:
        yield from (work(*batch) for batch in batched)
        return
    threads = torch.get_num_threads()
    waiting: deque[Future[T]] = deque()
    torch.set_num_threads(threads // at_once)
    try:
        with ThreadPoolExecutor(at_once, "evaluation") as pool:
            for batch in batched:
                waiting.append(pool.submit(torch.no_grad()(work), *batch))
                if len(waiting) > at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)


def _on_device(
    model: TransferModel, task: Task, rows: Sequence[Features], encoder: Encoder, batch_size: int
) -> Iterator[Batch]:
    """Yields the rows in batches, and the tensors of each batch on the model's device."""
    generator = stream(0, "evaluation")
    fewest = None if task.validates_at_random else _FEWEST_TOKENS.get(model.device.type, _FEWEST_TOKENS["cuda"])
    for part in batches(rows, batch_size, fewest):
        batch = task.collate(part, encoder, generator)
        yield part, {name: tensor.to(model.device) for name, tensor in batch.items()}


def batches(rows: Sequence[Features], batch_size: int, fewest_tokens: int | None) -> Iterator[Rows]:
    """Yields the rows in batches of similar length, the longest first.

    A row that is more than a tenth shorter than the longest one of a batch begins the next batch.

    Args:
        rows: in any order.
        batch_size: number of rows of a batch, at most.
        fewest_tokens: a batch with fewer tokens takes shorter rows all the same. None: each batch but the last has
            `batch_size` rows, for tasks whose random draws would depend on the device otherwise.
    """
    batch: Rows = []
    for row in sorted(rows, key=lambda row: len(row["input_ids"]), reverse=True):
        longest = len(batch[0]["input_ids"]) if batch else 0
        differs = fewest_tokens is not None and len(row["input_ids"]) < (1 - _MOST_PADDING) * longest
        if len(batch) == batch_size or (differs and len(batch) * longest >= (fewest_tokens or 0)):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def autocast(model: TransferModel, precision: str) -> torch.autocast:
    """Returns a context in which forward passes use bfloat16 if `precision` is "bf16"; weights stay float32."""
    return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
