"""A narrower student: what is left of a model's matrices in fewer dimensions.

Beyond the thesis's tables: its §8.2 (footnote 2) reports that a smaller hidden size costs less than fewer layers. The
hidden states are taken to the directions in which the word embeddings vary most, by their singular value decomposition
(as Mukherjee and Awadallah 2020 narrow embeddings), and each matrix to its best approximation there. Layer
normalisation does not rotate, so the student computes only nearly the same; the first stage of distillation mends it.
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
    """Sizes of a model: hidden states, heads, and the inner layer of its feed-forward part."""

    hidden: int
    heads: int
    inner: int

    def narrowed(self, hidden: int) -> Width:
        """The same with smaller hidden states, as many heads, and an inner layer smaller in proportion.

        Raises:
            UsageError: the heads do not divide it, or it is not smaller.
        """
        if hidden % self.heads or not 0 < hidden < self.hidden:
            raise UsageError(
                f"model.student.hidden_size={hidden}: must be a multiple of the {self.heads} heads below {self.hidden}"
            )
        return Width(hidden, self.heads, self.inner * hidden // self.hidden)


def principal_directions(embeddings: Tensor, count: int) -> Tensor:
    """(tokens, hidden) -> (hidden, count), orthonormal columns: the directions that keep most of the embeddings."""
    wide = embeddings.double()
    return torch.linalg.eigh(wide.T @ wide).eigenvectors.flip(-1)[:, :count].to(embeddings.dtype)


def narrow(tensors: Mapping[str, Tensor], basis: Tensor, before: Width, after: Width) -> dict[str, Tensor]:
    """A model's tensors in the directions of `basis`.

    - Attention: of each head, the best approximations in the new head size of query^T key, which decides the map, and
      of output value, biases included; scores keep their size though they are divided by a smaller root.
    - Feed-forward: the inner neurons whose weights in and out have the largest product of norms.
    - Layer normalisation: scales are averaged over the directions.
    - All else: each dimension of the hidden size is projected.

    Args:
        tensors: name -> tensor, as BERT's and RoBERTa's families name them.
        basis: (hidden, new hidden).
    Raises:
        UsageError: a model of another family.
    """
    blocks = [found[1] for name in tensors if (found := _ATTENTION.fullmatch(name)) is not None]
    if not blocks:
        raise UsageError("model.student.hidden_size: only models that name their matrices as BERT does can be narrowed")
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
        """(heads, head size, new hidden + 1), the bias last."""
        weight, bias = tensors[f"{own}{part}.weight"] @ basis, tensors[f"{own}{part}.bias"]
        return torch.cat([weight, bias[:, None]], 1).view(before.heads, old, -1)

    # scores: query^T key / sqrt(head size)
    size = (new / old) ** 0.5
    query, key = _best_factors(projection("query").transpose(1, 2), projection("key"), new)
    # output value: (heads, new hidden, head size) and (heads, head size, new hidden + 1)
    per_head = (basis.T @ tensors[f"{out}weight"]).view(-1, before.heads, old).transpose(0, 1)
    output, value = _best_factors(per_head, projection("value"), new)
    found = {"query": query.transpose(1, 2) * size**0.5, "key": key * size**0.5, "value": value}
    result = {}
    for part, factor in found.items():
        flat = factor.reshape(after.hidden, -1)
        result[f"{own}{part}.weight"], result[f"{own}{part}.bias"] = flat[:, :-1].contiguous(), flat[:, -1].contiguous()
    result[f"{out}weight"] = output.transpose(0, 1).reshape(after.hidden, after.hidden)
    result[f"{out}bias"] = basis.T @ tensors[f"{out}bias"]
    return result


def _best_factors(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of the best approximation of `left right` of a smaller rank, equally large.

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
    made = first @ u[:, :, :rank] * root[:, None], root[:, :, None] * v[:, :rank] @ last.transpose(1, 2)
    return made[0].to(dtype), made[1].to(dtype)


def _feed_forward(tensors: Mapping[str, Tensor], block: str, basis: Tensor, after: Width) -> dict[str, Tensor]:
    inner, out = f"{block}intermediate.dense.", f"{block}output.dense."
    weight = tensors[f"{inner}weight"].norm(dim=1) * tensors[f"{out}weight"].norm(dim=0)
    chosen = weight.topk(after.inner).indices.sort().values
    return {
        f"{inner}weight": tensors[f"{inner}weight"][chosen] @ basis,
        f"{inner}bias": tensors[f"{inner}bias"][chosen],
        f"{out}weight": basis.T @ tensors[f"{out}weight"][:, chosen],
        f"{out}bias": basis.T @ tensors[f"{out}bias"],
    }
