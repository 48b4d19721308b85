"""Narrower matrices: exact where nothing is lost, else the best approximation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from xlt.models.narrowing import Width, narrow, principal_directions

BEFORE, AFTER = Width(12, 2, 24), Width(6, 2, 12)


def _basis(draw: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(12, 6, generator=draw, dtype=torch.float64)).Q


def _tensors(draw: torch.Generator, rank: int) -> dict[str, Tensor]:
    """One block whose heads' products have at most a given rank, and whose last twelve inner neurons are small."""

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    def of_rank(rows: int, columns: int) -> Tensor:
        return torch.cat([random(rows // 2, rank) @ random(rank, columns) for _ in range(2)])

    own, out = "block.attention.self.", "block.attention.output.dense."
    found: dict[str, Tensor] = {}
    for part in ("query", "key", "value"):
        both = of_rank(12, 13)
        found |= {f"{own}{part}.weight": both[:, :12], f"{own}{part}.bias": both[:, 12]}
    small = torch.where(torch.arange(24) < 12, 1.0, 1e-3).double()
    return found | {
        f"{out}weight": random(12, 12),
        f"{out}bias": random(12),
        "block.intermediate.dense.weight": random(24, 12) * small[:, None],
        "block.intermediate.dense.bias": random(24),
        "block.output.dense.weight": random(12, 24) * small,
        "block.output.dense.bias": random(12),
        "block.output.LayerNorm.weight": torch.full((12,), 3.0, dtype=torch.float64),
        "block.output.LayerNorm.bias": random(12),
        "embeddings.word_embeddings.weight": random(30, 12),
    }


def _linear(tensors: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def _heads(tensors: dict[str, Tensor], x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Scores, (heads, length, length), and what each head writes for each position, (heads, length, hidden)."""
    query, key, value = (
        _linear(tensors, f"block.attention.self.{part}", x).view(len(x), 2, size).transpose(0, 1)
        for part in ("query", "key", "value")
    )
    output = tensors["block.attention.output.dense.weight"].view(-1, 2, size).transpose(0, 1)
    return query @ key.transpose(1, 2) / size**0.5, value @ output.transpose(1, 2)


def test_states_within_the_directions_attend_and_write_as_before() -> None:
    """Where states lie in the kept directions and no head has more than the new rank, nothing of attention is lost."""
    draw = torch.Generator().manual_seed(1)
    basis, tensors = _basis(draw), _tensors(draw, rank=3)
    found = narrow(tensors, basis, BEFORE, AFTER)
    x = torch.randn(5, 6, generator=draw, dtype=torch.float64)
    scores, written = _heads(tensors, x @ basis.T, 6)
    narrow_scores, narrow_written = _heads(found, x, 3)
    torch.testing.assert_close(narrow_scores, scores)
    torch.testing.assert_close(narrow_written, written @ basis)


def test_of_higher_rank_the_approximation_is_the_best() -> None:
    """Eckart and Young: the error is what the left-out singular values make up."""
    draw = torch.Generator().manual_seed(2)
    basis, tensors = _basis(draw), _tensors(draw, rank=6)
    found = narrow(tensors, basis, BEFORE, AFTER)

    def product(of: dict[str, Tensor], size: int, projected: Tensor | None) -> Tensor:
        parts = []
        for part in ("query", "key"):
            weight = of[f"block.attention.self.{part}.weight"]
            weight = weight if projected is None else weight @ projected
            both = torch.cat([weight, of[f"block.attention.self.{part}.bias"][:, None]], 1)
            parts.append(both.view(2, size, -1))
        return parts[0].transpose(1, 2) @ parts[1] / size**0.5

    whole, kept = product(tensors, 6, basis), product(found, 3, None)
    left_out = torch.linalg.svdvals(whole)[:, 3:].square().sum(1).sqrt()
    torch.testing.assert_close((whole - kept).norm(dim=(1, 2)), left_out)


def test_the_inner_neurons_that_matter_are_kept() -> None:
    draw = torch.Generator().manual_seed(3)
    basis, tensors = _basis(draw), _tensors(draw, rank=3)
    found = narrow(tensors, basis, BEFORE, AFTER)
    torch.testing.assert_close(
        found["block.intermediate.dense.weight"], tensors["block.intermediate.dense.weight"][:12] @ basis
    )
    torch.testing.assert_close(
        found["block.output.dense.weight"], basis.T @ tensors["block.output.dense.weight"][:, :12]
    )


def test_equal_scales_of_normalisation_stay_and_embeddings_are_projected() -> None:
    draw = torch.Generator().manual_seed(4)
    basis, tensors = _basis(draw), _tensors(draw, rank=3)
    found = narrow(tensors, basis, BEFORE, AFTER)
    torch.testing.assert_close(found["block.output.LayerNorm.weight"], torch.full((6,), 3.0, dtype=torch.float64))
    name = "embeddings.word_embeddings.weight"
    torch.testing.assert_close(found[name], tensors[name] @ basis)
    assert {tuple(found[n].shape) for n in tensors} <= {(6, 6), (6,), (12, 6), (12,), (6, 12), (30, 6)}


def test_directions_are_those_of_most_variance() -> None:
    """Embeddings along (3, 4) / 5: that direction is the one, up to its sign."""
    along = torch.tensor([[3.0, 4.0], [-6.0, -8.0], [0.3, 0.4]])
    (direction,) = principal_directions(along, 1).T
    torch.testing.assert_close(direction.abs(), torch.tensor([0.6, 0.8]))


def test_width_keeps_heads_and_proportion() -> None:
    assert Width(768, 12, 3072).narrowed(384) == Width(384, 12, 1536)
    with pytest.raises(ValueError, match=r"hidden_size=.*\b768\b.*\b12\b"):
        Width(768, 12, 3072).narrowed(500)
