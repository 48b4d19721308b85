"""The SM3 optimiser's step on sparse deltas (Anil et al., 2019).

SM3 adapts the step of each entry, but stores one number per row and per column instead of one per entry.
"""

import torch
from torch import Tensor

from .devices import uses_triton
from .sparse_pattern import SparsePattern


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
    variant: str = "II",
) -> None:
    """Defines `sm3_step` in plain torch."""
    row = torch.repeat_interleave(pattern.crow.long().diff())
    column = pattern.col.long()
    g = gradient.to(rows.dtype)
    if variant == "I":
        for accumulators, largest in zip((rows, columns), pattern.largest(g * g), strict=True):
            accumulators += largest
        estimate = torch.minimum(rows[row], columns[column])
    else:
        estimate = torch.minimum(rows[row], columns[column]) + g * g
        rows.scatter_reduce_(0, row, estimate, "amax")
        columns.scatter_reduce_(0, column, estimate, "amax")
    step = g / torch.sqrt(estimate + epsilon)
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
    variant: str = "II",
) -> None:
    """Does one optimiser step on the delta of one matrix, in place.

    For each entry (i, j) with gradient g, where the accumulators hold the values of the step before:

        estimate  = min(rows_i, columns_j) + g^2
        rows_i    = max(rows_i, the estimates in row i);  columns_j likewise
        delta     = (1 - rate decay) delta - rate g / sqrt(estimate + epsilon)

    This is SM3-II. SM3-I, the first variant of the same paper, sums up the largest squares, so that its steps are never
    longer:

        rows_i    = rows_i + the largest g^2 in row i;  columns_j likewise
        estimate  = min(rows_i, columns_j)

    With momentum, an exponential mean of g / sqrt(estimate + epsilon) takes the place of this term. Everything is
    computed in the accumulators' dtype.

    Args:
        delta: (N,) float32 or float64, changed in place.
        gradient: (N,) any floating dtype.
        pattern: the delta's N entries in the matrix.
        rows, columns: accumulators, (pattern.rows,) and (pattern.columns,) of delta's dtype, changed in place.
        rate: learning rate, >= 0.
        epsilon: > 0; it also keeps an entry whose gradients were all zero where it is.
        decay: decoupled weight decay of the delta, >= 0; a step multiplies the delta by 1 - rate decay.
        momentum: factor of the exponential mean, in [0, 1); with 0 no buffer is needed.
        buffer: (N,) exponential mean, of delta's dtype, changed in place; None without momentum.
        variant: "I" or "II".
    """
    arguments = (delta, gradient, pattern, rows, columns, rate, epsilon, decay, momentum, buffer, variant)
    if uses_triton(delta):
        from .sm3_triton import launch_sm3_step

        launch_sm3_step(*arguments)
    else:
        sm3_step_definition(*arguments)
