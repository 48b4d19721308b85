"""The cost of inference, in operations per example, which is the same on every machine (thesis Table 5.7)."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from xlt.data.encoding import Encoder
from xlt.data.mix import LoadedSource
from xlt.data.streams import stream
from xlt.models.transfer import TransferModel, parameter_report
from xlt.tasks.task import Task

_EXAMPLES = 16
_EXAMPLES_DECODED = 2  # fewer, because decoding is token by token and each product is counted


@torch.no_grad()
def inference_cost(model: TransferModel, task: Task, source: LoadedSource, encoder: Encoder) -> dict[str, float]:
    """Counts the parameters of the body, and the operations per example (`flops`) including heads, as a mean.

    Args:
        model: in any mode, which does not change.
        task: the task.
        source: some of its rows, spread evenly, are each a batch of their own, so that padding does not count.
        encoder: the tokenizer.
    """
    training = model.training
    model.eval()
    rows = source.features
    count = _EXAMPLES_DECODED if model.decodes else _EXAMPLES
    row_numbers = sorted({round(at * (len(rows) - 1) / max(count - 1, 1)) for at in range(count)})
    try:
        # torch's counter does not count fused attention on a CPU; plain attention computes the same products.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            for at in row_numbers:
                batch = task.collate([rows[at]], encoder, stream(0, "evaluation"))
                task.score(model, {name: part.to(model.device) for name, part in batch.items()}, [rows[at]])
    finally:
        model.train(training)
    return {**parameter_report(model), "flops": counter.get_total_flops() / len(row_numbers)}
