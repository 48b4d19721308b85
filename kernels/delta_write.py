"""Reading, writing and restoring single entries of a weight tensor in place.

The effective weight, base plus delta, lives in the model's own tensor; only the displaced base values are kept aside.
"""

import torch
from torch import Tensor

from .devices import uses_triton


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


def write_delta_definition(weight: Tensor, indices: Tensor, base_values: Tensor, delta: Tensor) -> None:
    """Says what `write_delta` does."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    values = base_values.to(wide) + delta.to(wide)
    restore_entries(weight, indices, values.to(weight.dtype))


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
    if uses_triton(weight) and weight.is_contiguous():
        from .delta_write_triton import launch_write_delta

        launch_write_delta(weight, indices, base_values, delta)
    else:
        write_delta_definition(weight, indices, base_values, delta)


def swap_delta_definition(
    weight: Tensor, out_indices: Tensor, out_base: Tensor, indices: Tensor, base_values: Tensor, delta: Tensor
) -> None:
    """Says what `swap_delta` does."""
    restore_entries(weight, out_indices, out_base)
    write_delta_definition(weight, indices, base_values, delta)


@torch.no_grad()
def swap_delta(
    weight: Tensor, out_indices: Tensor, out_base: Tensor, indices: Tensor, base_values: Tensor, delta: Tensor
) -> None:
    """Takes one delta out of `weight` and writes another: on a GPU in one launch.

    Args:
        weight: any shape, changed in place.
        out_indices: (M,) ascending flat indices of the delta that goes.
        out_base: (M,) the base values there, of the weight's dtype.
        indices: (N,) ascending, of the delta that comes; the two may overlap.
        base_values: (N,) the base values there: without the delta that goes.
        delta: (N,) master values.
    """
    if uses_triton(weight) and weight.is_contiguous():
        from .delta_write_triton import launch_swap_delta

        launch_swap_delta(weight, out_indices, out_base, indices, base_values, delta)
    else:
        swap_delta_definition(weight, out_indices, out_base, indices, base_values, delta)


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
