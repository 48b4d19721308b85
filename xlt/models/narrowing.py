"""Computes the weights of a narrower student, that is, of a model with a smaller hidden size.

This is not in the thesis's tables; §8.2 (footnote 2) reports that a smaller hidden size costs less than fewer layers.
The hidden states are projected on the directions in which the word embeddings vary most, found by a singular value
decomposition (as Mukherjee and Awadallah 2020 narrow embeddings), and each matrix is replaced by its best approximation
there. Layer normalisation is not invariant under rotation, so the student computes only nearly the same as the teacher;
the first stage of distillation repairs this.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from xlt.errors import UsageError

_ATTENTION = re.compile(r"(.+\.)attention\.self\.query\.weight")
_NORM = re.compile(r"(?i).*(layernorm|layer_norm)\.weight")


@dataclass(frozen=True)
class Width:
    """The sizes of a model: hidden size, number of heads, and size of the feed-forward layers' inner part."""

    hidden: int
    heads: int
    inner: int

    def narrowed(self, hidden: int) -> Width:
        """Returns the sizes for a smaller hidden size, with as many heads and an inner size reduced in proportion.

        Raises:
            UsageError: `hidden` is no multiple of the number of heads, or is not smaller.
        """
        if hidden % self.heads or not 0 < hidden < self.hidden:
            raise UsageError(
                f"model.student.hidden_size={hidden}: must be less than the teacher's {self.hidden} and a multiple of "
                f"{self.heads}, the number of heads"
            )
        return Width(hidden, self.heads, self.inner * hidden // self.hidden)


def principal_directions(embeddings: Tensor, count: int) -> Tensor:
    """Returns the `count` directions that preserve most of the embeddings.

    Args:
        embeddings: (tokens, hidden).
        count: at most hidden.
    Returns:
        (hidden, count) orthonormal columns, of the embeddings' dtype.
    """
    wide = embeddings.double()
    return torch.linalg.eigh(wide.T @ wide).eigenvectors.flip(-1)[:, :count].to(embeddings.dtype)


def narrow(tensors: Mapping[str, Tensor], basis: Tensor, before: Width, after: Width) -> dict[str, Tensor]:
    """Projects a model's tensors on the directions of `basis`.

    - Attention: for each head the best approximations, in the new head size, of query^T key, which determines the map,
      and of output value, both with biases. Scores keep their size, although they are divided by a smaller root.
    - Feed-forward: the inner neurons for which the product of the norms of input and output weights is largest.
    - Layer normalisation: scales are averaged over the directions.
    - All other tensors: each dimension of the hidden size is projected.

    Args:
        tensors: name -> tensor, with the names of BERT's and RoBERTa's families.
        basis: (hidden, new hidden) orthonormal columns.
        before, after: sizes of the model and of the result.
    Returns:
        name -> tensor of the narrower model.
    Raises:
        UsageError: the model is of another family.
    """
    blocks = [match[1] for name in tensors if (match := _ATTENTION.fullmatch(name)) is not None]
    if not blocks:
        raise UsageError(
            "model.student.hidden_size: only models whose tensors have the names of BERT's can be narrowed; set null"
        )
    result: dict[str, Tensor] = {}
    for block in blocks:
        result |= _attention(tensors, block, basis, before, after)
        result |= _feed_forward(tensors, block, basis, after)
    for name, tensor in tensors.items():
        if name in result:
            continue
        if _NORM.fullmatch(name):
            result[name] = basis.square().T @ tensor
            continue
        for dimension, size in enumerate(tensor.shape):
            if size == before.hidden:
                tensor = torch.movedim(torch.movedim(tensor, dimension, -1) @ basis, -1, dimension)
        result[name] = tensor
    return result


def _attention(
    tensors: Mapping[str, Tensor], block: str, basis: Tensor, before: Width, after: Width
) -> dict[str, Tensor]:
    old, new = before.hidden // before.heads, after.hidden // after.heads
    own, out = f"{block}attention.self.", f"{block}attention.output.dense."

    def projection(part: str) -> Tensor:
        """Returns a projection as (heads, head size, new hidden + 1), with the bias as last column."""
        weight, bias = tensors[f"{own}{part}.weight"] @ basis, tensors[f"{own}{part}.bias"]
        return torch.cat([weight, bias[:, None]], 1).view(before.heads, old, -1)

    # scores: query^T key / sqrt(head size)
    size = (new / old) ** 0.5
    query, key = _best_factors(projection("query").transpose(1, 2), projection("key"), new)
    # output value: (heads, new hidden, head size) and (heads, head size, new hidden + 1)
    per_head = (basis.T @ tensors[f"{out}weight"]).view(-1, before.heads, old).transpose(0, 1)
    output, value = _best_factors(per_head, projection("value"), new)
    factors = {"query": query.transpose(1, 2) * size**0.5, "key": key * size**0.5, "value": value}
    result = {}
    for part, factor in factors.items():
        flat = factor.reshape(after.hidden, -1)
        result[f"{own}{part}.weight"], result[f"{own}{part}.bias"] = flat[:, :-1].contiguous(), flat[:, -1].contiguous()
    result[f"{out}weight"] = output.transpose(0, 1).reshape(after.hidden, after.hidden)
    result[f"{out}bias"] = basis.T @ tensors[f"{out}bias"]
    return result


def _best_factors(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factorises the best approximation of the product `left right` with a smaller rank into equally large factors.

    Args:
        left, right: (heads, m, k) and (heads, k, n).
    Returns:
        (heads, m, rank) and (heads, rank, n).
    """
    dtype = left.dtype
    first, upper = torch.linalg.qr(left.double())
    last, lower = torch.linalg.qr(right.double().transpose(1, 2))
    u, sizes, v = torch.linalg.svd(upper @ lower.transpose(1, 2))
    root = sizes[:, :rank].sqrt()
    new_left = first @ u[:, :, :rank] * root[:, None]
    new_right = root[:, :, None] * v[:, :rank] @ last.transpose(1, 2)
    return new_left.to(dtype), new_right.to(dtype)


def _feed_forward(tensors: Mapping[str, Tensor], block: str, basis: Tensor, after: Width) -> dict[str, Tensor]:
    inner, out = f"{block}intermediate.dense.", f"{block}output.dense."
    importance = tensors[f"{inner}weight"].norm(dim=1) * tensors[f"{out}weight"].norm(dim=0)
    neurons = importance.topk(after.inner).indices.sort().values
    return {
        f"{inner}weight": tensors[f"{inner}weight"][neurons] @ basis,
        f"{inner}bias": tensors[f"{inner}bias"][neurons],
        f"{out}weight": basis.T @ tensors[f"{out}weight"][:, neurons],
        f"{out}bias": basis.T @ tensors[f"{out}bias"],
    }
