"""What an example costs at inference, by counting operations: the same on every machine (thesis Table 5.7)."""

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
_EXAMPLES_DECODED = 2  # token by token, with the counter at every product


@torch.no_grad()
def inference_cost(model: TransferModel, task: Task, source: LoadedSource, encoder: Encoder) -> dict[str, float]:
    """Parameters of the body with its embeddings, and `flops` of an example, head and all, mean over a few.

    Args:
        model: in any mode, which it keeps.
        source: rows spread evenly over it are each a batch, so that no padding counts.
    """
    training = model.training
    model.eval()
    rows = source.features
    count = _EXAMPLES_DECODED if model.decodes else _EXAMPLES
    chosen = sorted({round(at * (len(rows) - 1) / max(count - 1, 1)) for at in range(count)})
    try:
        # torch's counter does not know the CPU's fused attention; the plain one does the same products.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            for at in chosen:
                batch = task.collate([rows[at]], encoder, stream(0, "evaluation"))
                task.score(model, {name: part.to(model.device) for name, part in batch.items()}, [rows[at]])
    finally:
        model.train(training)
    return {**parameter_report(model), "flops": counter.get_total_flops() / len(chosen)}
