"""The mean squared distance between two attention distributions, computed without storing either of them.

Distillation compares attention distributions (thesis Eq. 5.1), but fast attention does not return them. `map_distance`
computes them again from queries and keys, a few sequences at a time, and computes the gradients of queries and keys in
the same pass. The memory kept for the backward pass is therefore that of queries and keys, not that of the maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Entries of one map that are in memory at a time: on a CPU as many as fit into a core's cache, elsewhere more.
_CHUNK_ENTRIES = {"cpu": 1 << 20}
_CHUNK_ENTRIES_ON_ACCELERATORS = 1 << 24


@dataclass(frozen=True)
class AttentionInputs:
    """The inputs of an attention distribution, which is softmax(query key^T scale + mask) over the keys.

    Attributes:
        query, key: (batch, heads, length, head size).
        scale: factor by which the products are multiplied.
        mask: broadcasts to (batch, heads, length, length). A bool mask is True where attention is allowed; any other
            mask is added to the scores. None allows attention everywhere.
    """

    query: Tensor
    key: Tensor
    scale: float
    mask: Tensor | None = None

    def part(self, rows: slice) -> AttentionInputs:
        """Returns the inputs of some sequences. Queries and keys are contiguous, so that no product copies them."""
        mask = self.mask if self.mask is None or self.mask.shape[0] == 1 else self.mask[rows]
        return AttentionInputs(self.query[rows].contiguous(), self.key[rows].contiguous(), self.scale, mask)

    def map(self, rows: slice = slice(None), length: int | None = None) -> Tensor:
        """Computes the distributions of the sequences `rows`, cut to their first `length` positions.

        Returns:
            (sequences, heads, length, length), float32 or wider.
        """
        query, key = (part[rows, :, :length] for part in (self.query, self.key))
        wide = torch.promote_types(query.dtype, torch.float32)
        scores = (query.to(wide) * self.scale) @ key.to(wide).transpose(-1, -2)
        if self.mask is not None:
            mask = self.mask if self.mask.shape[0] == 1 else self.mask[rows]
            mask = mask[..., : scores.shape[-2] if mask.shape[-2] > 1 else 1, : scores.shape[-1]]
            if mask.dtype is torch.bool:  # the mask is much smaller than the scores, and adding is faster than filling
                # Not -inf: a padded position's query may have no key to attend to, and softmax would return NaN.
                mask = torch.zeros_like(mask, dtype=wide).masked_fill_(~mask, -1e30)
            scores.add_(mask)
        return scores.softmax(-1)


def map_distance_definition(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Defines `map_distance` in plain torch: the mean squared difference of two maps over heads and real positions.

    Thesis Eq. 5.1, one layer: the MSE over (heads, length, length), separately for each sequence, without padding.

    Args:
        student, teacher: (batch, heads, length, length) distributions.
        real: (batch, length) bool, False for padding.
    Returns:
        (batch,).
    """
    pairs = real[:, None, :, None] & real[:, None, None, :]
    squares = (student - teacher).square() * pairs
    return squares.sum((1, 2, 3)) / (student.shape[1] * real.sum(1).square())


def map_distance(student: AttentionInputs, teacher: AttentionInputs, real: Tensor) -> Tensor:
    """Computes the mean squared difference of two attention distributions; differentiable in the student's inputs.

    Thesis Eq. 5.1, one layer. Besides the result it needs memory for one chunk of both maps and, for the backward
    pass, for one tensor like the student's query and one like its key. Each distribution is computed once, in float32
    or wider.

    Args:
        student, teacher: inputs of the two distributions; batch, heads and length must be equal.
        real: (batch, length) bool, False for padding, which must be on the right.
    Returns:
        (batch,), float32 or wider.
    Raises:
        ValueError: heads or lengths differ.
    """
    if student.query.shape[:3] != teacher.query.shape[:3]:
        raise ValueError(
            f"attention maps of shape (batch, heads, length) {tuple(student.query.shape[:3])} and "
            f"{tuple(teacher.query.shape[:3])} cannot be compared: the shapes must be equal"
        )
    distance: Tensor = _MapDistance.apply(student.query, student.key, student, teacher, real)
    return distance


class _MapDistance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, student: AttentionInputs, teacher: AttentionInputs, real: Tensor
    ) -> Tensor:
        needs_gradients = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        with torch.autocast(query.device.type, enabled=False):
            distance, gradients = _distance(student, teacher, real, with_gradients=needs_gradients)
        if needs_gradients:
            ctx.save_for_backward(*gradients)
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        # Each sequence's distance depends on its own queries and keys alone, so its gradient only needs scaling.
        query, key = (part * upstream[:, None, None, None].to(part.dtype) for part in ctx.saved_tensors)
        return query, key, None, None, None


@torch.no_grad()
def _distance(
    student: AttentionInputs, teacher: AttentionInputs, real: Tensor, *, with_gradients: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Computes the distances, (batch,), and if asked for their gradients in the student's query and key."""
    batch, heads, length, _ = student.query.shape
    lengths = real.sum(1)
    # On a CPU each chunk is cut to its longest sequence. Elsewhere reading the lengths would wait for the device.
    longest = [int(n) for n in lengths.tolist()] if real.device.type == "cpu" else [length] * batch
    entries = _CHUNK_ENTRIES.get(real.device.type, _CHUNK_ENTRIES_ON_ACCELERATORS)
    chunk_sequences = max(1, entries // max(heads * length * length, 1))
    wide = torch.promote_types(student.query.dtype, torch.float32)
    distance = torch.zeros(batch, dtype=wide, device=real.device)
    gradients = tuple(torch.zeros_like(part) for part in (student.query, student.key)) if with_gradients else ()
    for start in range(0, batch, chunk_sequences):
        rows = slice(start, start + chunk_sequences)
        chunk_length = max(longest[rows], default=0)
        is_real = real[rows, :chunk_length].to(wide)
        student_map = student.map(rows, chunk_length)
        difference = student_map - teacher.map(rows, chunk_length).to(wide)
        difference *= is_real[:, None, :, None]
        difference *= is_real[:, None, None, :]
        compared_entries = (heads * lengths[rows].square()).to(wide).clamp(min=1)
        distance[rows] = difference.square().sum((1, 2, 3)) / compared_entries
        if not with_gradients:
            continue
        # The gradient g of the map is 2 difference / entries; that of the scores is map * (g - sum(map * g)).
        upstream = difference.mul_((2 / compared_entries)[:, None, None, None])
        scores = student_map * (upstream - (upstream * student_map).sum(-1, keepdim=True))
        scores = scores.mul_(student.scale).to(student.query.dtype)
        gradients[0][rows, :, :chunk_length] = scores @ student.key[rows, :, :chunk_length]
        gradients[1][rows, :, :chunk_length] = scores.transpose(-1, -2) @ student.query[rows, :, :chunk_length]
    return distance, gradients
