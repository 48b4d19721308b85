"""How far two attention distributions are apart, for distillation, without keeping either of them.

A fast attention path never writes its distributions down. Where a loss compares them, they are computed from queries
and keys once more, a few sequences at a time, and the gradient to the queries and keys is taken in the same pass: what
is kept for the backward pass has the size of queries and keys, not of the maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Entries of one map that are in memory at a time: what a core's cache holds; a GPU wants more work at once.
_ENTRIES_AT_ONCE = {"cpu": 1 << 20}
_ENTRIES_ELSEWHERE = 1 << 24


@dataclass(frozen=True)
class AttentionInputs:
    """What an attention distribution is made of: softmax(query key^T scale + mask) over the keys.

    Attributes:
        query, key: (batch, heads, length, head size).
        scale: factor of the products.
        mask: broadcasts to (batch, heads, length, length); bool (True: may be attended to) or added to the scores;
            None: all may be attended to.
    """

    query: Tensor
    key: Tensor
    scale: float
    mask: Tensor | None = None

    def map(self, rows: slice = slice(None), length: int | None = None) -> Tensor:
        """The distributions of some sequences' first `length` positions, at least float32."""
        query, key = (part[rows, :, :length] for part in (self.query, self.key))
        wide = torch.promote_types(query.dtype, torch.float32)
        scores = (query.to(wide) * self.scale) @ key.to(wide).transpose(-1, -2)
        if self.mask is not None:
            mask = self.mask if self.mask.shape[0] == 1 else self.mask[rows]
            mask = mask[..., : scores.shape[-2] if mask.shape[-2] > 1 else 1, : scores.shape[-1]]
            if mask.dtype is torch.bool:  # much smaller than the scores, and adding is faster than filling
                # Not -inf: the query of a padded position may see no key at all.
                mask = torch.zeros_like(mask, dtype=wide).masked_fill_(~mask, -1e30)
            scores.add_(mask)
        return scores.softmax(-1)


def map_distance_definition(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Says what `map_distance` computes: the mean squared difference of two maps over heads and real positions.

    Thesis Eq. 5.1, one layer: MSE over (heads, length, length) of each sequence for itself, padding left out.

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
    """The mean squared difference of two attention distributions, (batch,); differentiable in the student's inputs.

    Memory beside the result: one chunk of both maps; for the backward pass, a tensor like the student's query and one
    like its key. The distributions are computed once, in at least float32.

    Args:
        student, teacher: of equal batch, heads and length.
        real: (batch, length) bool, False for padding, which is on the right.
    Raises:
        ValueError: heads or lengths differ.
    """
    if student.query.shape[:3] != teacher.query.shape[:3]:
        raise ValueError(
            f"attention maps of {tuple(student.query.shape[:3])} and {tuple(teacher.query.shape[:3])} "
            "(batch, heads, length) cannot be compared"
        )
    distance: Tensor = _MapDistance.apply(student.query, student.key, student, teacher, real)
    return distance


class _MapDistance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, student: AttentionInputs, teacher: AttentionInputs, real: Tensor
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        with torch.autocast(query.device.type, enabled=False):
            distance, gradients = _distance(student, teacher, real, gradients=wanted)
        if wanted:
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
    student: AttentionInputs, teacher: AttentionInputs, real: Tensor, *, gradients: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Distances, and their gradients with respect to the student's query and key."""
    batch, heads, length, _ = student.query.shape
    lengths = real.sum(1)
    # Padding that no sequence of a chunk needs is left out, where asking for lengths does not wait for a device.
    longest = [int(n) for n in lengths.tolist()] if real.device.type == "cpu" else [length] * batch
    entries = _ENTRIES_AT_ONCE.get(real.device.type, _ENTRIES_ELSEWHERE)
    at_once = max(1, entries // max(heads * length * length, 1))
    wide = torch.promote_types(student.query.dtype, torch.float32)
    distance = torch.zeros(batch, dtype=wide, device=real.device)
    found = tuple(torch.zeros_like(part) for part in (student.query, student.key)) if gradients else ()
    for start in range(0, batch, at_once):
        rows = slice(start, start + at_once)
        upto = max(longest[rows], default=0)
        present = real[rows, :upto].to(wide)
        ours = student.map(rows, upto)
        difference = ours - teacher.map(rows, upto).to(wide)
        difference *= present[:, None, :, None]
        difference *= present[:, None, None, :]
        entries_of = (heads * lengths[rows].square()).to(wide).clamp(min=1)
        distance[rows] = difference.square().sum((1, 2, 3)) / entries_of
        if not gradients:
            continue
        # d distance / d map = 2 difference / entries; through the softmax: map * (that - its mean under the map).
        upstream = difference.mul_((2 / entries_of)[:, None, None, None])
        scores = ours * (upstream - (upstream * ours).sum(-1, keepdim=True))
        scores = scores.mul_(student.scale).to(student.query.dtype)
        found[0][rows, :, :upto] = scores @ student.key[rows, :, :upto]
        found[1][rows, :, :upto] = scores.transpose(-1, -2) @ student.query[rows, :, :upto]
    return distance, found
