"""The one evaluation path: checkpoint selection, final evaluation and tables all pass through here."""

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
    """The task's metrics over all examples of the sources together.

    Examples are batched by length, longest first, so that little is padded; whatever a task draws at random is drawn
    from the same stream each time. The model is left in the mode it was in.
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
    """bfloat16 arithmetic for forward passes where the recipe asks for it; weights and updates stay float32."""
    return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
