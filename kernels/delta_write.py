"""Reads, writes and restores single entries of a weight tensor in place.

The model's own weight tensor holds the effective weight, base plus delta. Only the base values at the delta's entries
are stored elsewhere, so that they can be put back.
"""

import torch
from torch import Tensor

from .devices import uses_triton

# Entries that a CPU reads and then writes together, so that each write finds the cache lines of its read. The lines of
# a block take half a megabyte, which fits into the second cache of a core. Writing 4.3% of an encoder of 178M entries
# takes 12 ns an entry with it, of which memory takes some 8; with eight times as many entries it takes 16.
_CPU_BLOCK = 2**13


@torch.no_grad()
def gather_entries(weight: Tensor, indices: Tensor) -> Tensor:
    """Returns the entries of `weight` at flat row-major `indices`.

    Args:
        weight: any shape, dtype and strides.
        indices: (N,) int32 or int64. They must be in range, which is not checked.
    Returns:
        (N,) of the weight's dtype; a copy, not a view.
    """
    if weight.is_contiguous():
        return weight.view(-1).index_select(0, indices)
    return weight[_coordinates(indices, weight.shape)]


def write_delta_definition(weight: Tensor, indices: Tensor, base_values: Tensor, delta: Tensor) -> None:
    """Defines `write_delta` in plain torch."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    values = base_values.to(wide) + delta.to(wide)
    restore_entries(weight, indices, values.to(weight.dtype))


@torch.no_grad()
def write_delta(weight: Tensor, indices: Tensor, base_values: Tensor, delta: Tensor) -> None:
    """Writes base + delta into `weight` at `indices`, in place.

    The sum is computed in float32 (float64 for a float64 weight) and rounded once, to the weight's dtype.

    Args:
        weight: any shape; all other entries keep their values.
        indices: (N,) int32 or int64 flat row-major, without repetition.
        base_values: (N,) the values that `gather_entries` returned before the first write.
        delta: (N,) master values, normally float32.
    """
    if uses_triton(weight) and weight.is_contiguous():
        from .delta_write_triton import launch_write_delta

        launch_write_delta(weight, indices, base_values, delta)
    else:
        write_delta_definition(weight, indices, base_values, delta)


def swap_delta_definition(
    weight: Tensor, old_indices: Tensor, old_base: Tensor, indices: Tensor, delta: Tensor
) -> Tensor:
    """Defines `swap_delta` in plain torch."""
    restore_entries(weight, old_indices, old_base)
    base_values = gather_entries(weight, indices)
    write_delta_definition(weight, indices, base_values, delta)
    return base_values


@torch.no_grad()
def swap_delta(weight: Tensor, old_indices: Tensor, old_base: Tensor, indices: Tensor, delta: Tensor) -> Tensor:
    """Replaces one delta in `weight` by another; on a GPU in one launch.

    This is the operation of a language switch, in which the weights of one language's module are replaced by those of
    the next. Restoring the old base values, gathering the new ones and writing the new delta one after another gives
    the same result in three passes over the entries.

    Args:
        weight: any shape, changed in place; it holds the old delta.
        old_indices: (M,) int32 or int64 ascending flat row-major indices of the old delta.
        old_base: (M,) the weight's base values at `old_indices`, of the weight's dtype.
        indices: (N,) int32 or int64 ascending flat row-major indices of the new delta; they may overlap with the old.
        delta: (N,) master values of the new delta, normally float32.
    Returns:
        (N,) the weight's base values at `indices`, that is, without the old delta; of the weight's dtype.
    Raises:
        ValueError: `old_base` has another dtype than the weight (it would be rounded silently).
    """
    if uses_triton(weight) and weight.is_contiguous():
        from .delta_write_triton import launch_swap_delta

        return launch_swap_delta(weight, old_indices, old_base, indices, delta)
    if _is_in_blocks(weight):
        return _swap_in_blocks(weight, old_indices, old_base, indices, delta)
    return swap_delta_definition(weight, old_indices, old_base, indices, delta)


@torch.no_grad()
def add_delta(weight: Tensor, indices: Tensor, delta: Tensor) -> Tensor:
    """Writes base + delta into a `weight` that holds the base: `gather_entries`, then `write_delta`, in one pass.

    Args:
        weight: any shape, changed in place.
        indices: (N,) int32 or int64 ascending flat row-major indices.
        delta: (N,) master values, normally float32.
    Returns:
        (N,) the base values at `indices`, of the weight's dtype.
    """
    if _is_in_blocks(weight):
        return _swap_in_blocks(weight, indices[:0], weight.new_empty(0), indices, delta)
    base_values = gather_entries(weight, indices)
    write_delta(weight, indices, base_values, delta)
    return base_values


def _is_in_blocks(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.is_contiguous()


def _swap_in_blocks(weight: Tensor, old_indices: Tensor, old_base: Tensor, indices: Tensor, delta: Tensor) -> Tensor:
    """Does what `swap_delta` does on a CPU, one block of the new entries after another.

    The old entries of a block are those before the first entry of the next block, so they are restored before any new
    entry near them is read. If a block fails, those before it are undone, and the rest of the old delta is still there.
    """
    if old_base.dtype != weight.dtype:
        raise ValueError(f"old_base has dtype {old_base.dtype}, the weight has {weight.dtype}: they must be equal")
    flat = weight.view(-1)
    wide = torch.promote_types(weight.dtype, torch.float32)
    base_values = torch.empty(len(indices), dtype=weight.dtype)
    firsts = indices[_CPU_BLOCK::_CPU_BLOCK].to(old_indices.dtype).contiguous()
    ends = torch.searchsorted(old_indices, firsts).tolist()
    old_parts = zip(old_indices.tensor_split(ends), old_base.tensor_split(ends), strict=True)
    parts = zip(*(one.split(_CPU_BLOCK) for one in (indices, delta, base_values)), strict=True)
    read = 0
    try:
        for (old_at, old_values), (at, values, base) in zip(old_parts, parts, strict=True):
            if len(old_at):
                flat.put_(old_at.long(), old_values)
            at = at.long()
            _read_block(flat, at, base)
            read += len(at)
            flat.put_(at, (base.to(wide) + values.to(wide)).to(weight.dtype))
    except BaseException:
        restore_entries(weight, indices[:read], base_values[:read])
        raise
    return base_values


def _read_block(flat: Tensor, at: Tensor, out: Tensor) -> None:
    """Copies the entries of `flat` at int64 `at` to `out`.

    `index_select` always runs on one thread, there in 0.8 of the time of `take`; `take` runs on all of them, and `put_`
    too, which writes in the time of `index_copy_` or less.
    """
    if torch.get_num_threads() == 1:
        torch.index_select(flat, 0, at, out=out)
    else:
        torch.take(flat, at, out=out)


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
        raise ValueError(f"values have dtype {values.dtype}, the weight has {weight.dtype}: they must be equal")
    if _is_in_blocks(weight):
        flat = weight.view(-1)
        for at, of_block in zip(indices.split(_CPU_BLOCK), values.split(_CPU_BLOCK), strict=True):
            flat.put_(at.long(), of_block)
    elif weight.is_contiguous():
        weight.view(-1).index_copy_(0, indices.long(), values)
    else:
        weight[_coordinates(indices, weight.shape)] = values


def _coordinates(indices: Tensor, shape: torch.Size) -> tuple[Tensor, ...]:
    """Converts flat row-major indices to one int64 tensor of coordinates per dimension."""
    rest = indices.long()
    coordinates_last_first = []
    for size in reversed(shape):
        coordinates_last_first.append(rest % size)
        rest = rest // size
    return tuple(reversed(coordinates_last_first))
