"""Evaluates a model; checkpoint selection, final evaluation and tables all use this function."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from xlt.data.encoding import Encoder
from xlt.data.mix import LoadedSource
from xlt.data.streams import stream
from xlt.models.transfer import TransferModel
from xlt.tasks.task import Task


@torch.no_grad()
def evaluate(
    model: TransferModel, task: Task, sources: Sequence[LoadedSource], encoder: Encoder, batch_size: int, precision: str
) -> dict[str, float]:
    """Computes the task's metrics over all examples of the sources together.

    Examples are batched by length, the longest first, so that there is little padding. Random draws of the task come
    from the same stream at each call. The model's mode (training or evaluation) does not change.

    Args:
        model: with its modules applied.
        task: computes scores and metrics.
        sources: at least one example in all.
        encoder: the tokenizer.
        batch_size: number of examples.
        precision: "fp32", or "bf16" for forward passes in bfloat16.
    Returns:
        name -> value, as `Task.metrics` returns them.
    """
    training = model.training
    model.eval()
    try:
        rows = [
            row | {"example": (number, row["example"])} if "example" in row else row
            for number, source in enumerate(sources)
            for row in source.features
        ]
        rows.sort(key=lambda row: len(row["input_ids"]), reverse=True)
        generator = stream(0, "evaluation")
        scores = []
        for at in range(0, len(rows), batch_size):
            part = rows[at : at + batch_size]
            batch = task.collate(part, encoder, generator)
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            with autocast(model, precision):
                scores.append(task.score(model, batch, part))
        return task.metrics(scores)
    finally:
        model.train(training)


def autocast(model: TransferModel, precision: str) -> torch.autocast:
    """Returns a context in which forward passes use bfloat16 if `precision` is "bf16"; weights stay float32."""
    return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
