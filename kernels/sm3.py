"""SM3 on sparse deltas: an adaptive step whose memory is a row and a column, not an entry (Anil et al., 2019)."""

import torch
from torch import Tensor

from .devices import uses_triton
from .sparse_linear import SparsePattern


def sm3_step_definition(
    delta: Tensor,
    gradient: Tensor,
    pattern: SparsePattern,
    rows: Tensor,
    columns: Tensor,
    rate: float,
    epsilon: float,
    decay: float = 0.0,
    momentum: float = 0.0,
    buffer: Tensor | None = None,
) -> None:
    """Says what `sm3_step` computes."""
    row = torch.repeat_interleave(pattern.crow.long().diff())
    column = pattern.col.long()
    g = gradient.to(rows.dtype)
    seen = torch.minimum(rows[row], columns[column]) + g * g
    rows.scatter_reduce_(0, row, seen, "amax")
    columns.scatter_reduce_(0, column, seen, "amax")
    step = g / torch.sqrt(seen + epsilon)
    if momentum:
        assert buffer is not None
        buffer.copy_(momentum * buffer + (1 - momentum) * step)
        step = buffer
    delta.copy_((1 - rate * decay) * delta - rate * step)


@torch.no_grad()
def sm3_step(
    delta: Tensor,
    gradient: Tensor,
    pattern: SparsePattern,
    rows: Tensor,
    columns: Tensor,
    rate: float,
    epsilon: float,
    decay: float = 0.0,
    momentum: float = 0.0,
    buffer: Tensor | None = None,
) -> None:
    """One optimiser step on the deltas of one matrix, in place.

    For each entry (i, j) of gradient g, with the accumulators of the steps before:

        seen  = min(rows_i, columns_j) + g^2
        rows_i, columns_j = the largest `seen` of their entries, or what they were
        delta = (1 - rate decay) delta - rate g / sqrt(seen + epsilon)

    and with momentum m an exponential mean of g / sqrt(seen + epsilon) in its place. Sums in the accumulators' dtype.

    Args:
        delta: (N,) float32 or float64, changed.
        gradient: (N,) any floating dtype.
        pattern: of the N entries.
        rows, columns: accumulators, (pattern.rows,) and (pattern.columns,) of delta's dtype, changed.
        rate: learning rate, >= 0.
        epsilon: > 0, so that an entry that has seen no gradient stays.
        decay: of the deltas, decoupled; they shrink by the factor 1 - rate decay.
        momentum: in [0, 1); 0 needs no buffer.
        buffer: (N,) of delta's dtype, changed.
    """
    arguments = (delta, gradient, pattern, rows, columns, rate, epsilon, decay, momentum, buffer)
    if uses_triton(delta):
        from .sm3_triton import launch_sm3_step

        launch_sm3_step(*arguments)
    else:
        sm3_step_definition(*arguments)
