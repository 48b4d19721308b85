"""Reading, writing and restoring single entries of a weight tensor in place.

The effective weight, base plus delta, lives in the model's own tensor; only the displaced base values are kept aside.
"""

import torch
from torch import Tensor


@torch.no_grad()
def gather_entries(weight: Tensor, indices: Tensor) -> Tensor:
    """Returns `weight` at flat row-major `indices`.

    Args:
        weight: any shape, dtype and strides.
        indices: (N,) int32 or int64, in range; not checked.
    Returns:
        (N,) a copy, of the weight's dtype.
    """
    if weight.is_contiguous():
        return weight.view(-1).index_select(0, indices)
    return weight[_coordinates(indices, weight.shape)]


@torch.no_grad()
def write_delta(weight: Tensor, indices: Tensor, base_values: Tensor, delta: Tensor) -> None:
    """Writes base + delta into `weight` at `indices`, in place.

    The sum is formed in float32 (float64 for a float64 weight) and rounded once, to the weight's dtype.

    Args:
        weight: any shape; entries elsewhere stay as they are.
        indices: (N,) int32 or int64 flat row-major, without repetition.
        base_values: (N,) what `gather_entries` returned before the first write.
        delta: (N,) master values, normally float32.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    values = base_values.to(wide) + delta.to(wide)
    restore_entries(weight, indices, values.to(weight.dtype))


@torch.no_grad()
def restore_entries(weight: Tensor, indices: Tensor, values: Tensor) -> None:
    """Puts `values` back into `weight` at flat `indices`, bit for bit.

    Args:
        weight: any shape; changed in place.
        indices: (N,) int32 or int64 flat row-major, without repetition.
        values: (N,) of the weight's dtype.
    Raises:
        ValueError: `values` has another dtype (it would be rounded silently).
    """
    if values.dtype != weight.dtype:
        raise ValueError(f"values are {values.dtype}, the weight is {weight.dtype}: must be equal")
    if weight.is_contiguous():
        weight.view(-1).index_copy_(0, indices.long(), values)
    else:
        weight[_coordinates(indices, weight.shape)] = values


def _coordinates(indices: Tensor, shape: torch.Size) -> tuple[Tensor, ...]:
    """Splits flat row-major indices into one int64 coordinate a dimension."""
    rest = indices.long()
    reversed_coordinates = []
    for size in reversed(shape):
        reversed_coordinates.append(rest % size)
        rest = rest // size
    return tuple(reversed(reversed_coordinates))
