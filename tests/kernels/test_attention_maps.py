"""Distances of attention distributions, compared with softmax and mean squared error written out in float64."""

import pytest
import torch
from torch import Tensor
from xlt_kernels import attention_maps
from xlt_kernels.attention_maps import AttentionInputs, map_distance, map_distance_definition

from tests.tolerance import summation_tolerance


def _inputs(batch: int, heads: int, length: int, size: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, heads, length, size, generator=draw, dtype=torch.float64).to(dtype)


def _leaves(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    query, key = _inputs(*shape, seed=seed, dtype=dtype)
    return query.clone().requires_grad_(True), key.clone().requires_grad_(True)


def _real(lengths: list[int], longest: int) -> Tensor:
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


def _by_hand(query: Tensor, key: Tensor, scale: float, other: AttentionInputs, lengths: list[int]) -> Tensor:
    """Computes thesis Eq. 5.1 for one layer, one sequence at a time, without the code under test."""
    found = []
    for row, length in enumerate(lengths):
        ours = torch.softmax(query[row, :, :length] @ key[row, :, :length].transpose(1, 2) * scale, -1)
        theirs = torch.softmax(
            other.query[row, :, :length].double() @ other.key[row, :, :length].double().transpose(1, 2) * other.scale,
            -1,
        )
        found.append(torch.nn.functional.mse_loss(ours, theirs))
    return torch.stack(found)


def test_two_positions_on_paper() -> None:
    """With equal scores both weights are 1/2; a score higher by log 3 gives 3/4, so one row of two differs by 1/4."""
    zero = torch.zeros(1, 1, 2, 1, dtype=torch.float64)
    query = torch.tensor([[[[1.0], [0.0]]]], dtype=torch.float64)
    key = torch.tensor([[[[0.0], [3.0]]]], dtype=torch.float64).log().nan_to_num(neginf=0.0)
    real = torch.ones(1, 2, dtype=torch.bool)
    found = map_distance(AttentionInputs(query, key, 1.0), AttentionInputs(zero, zero, 1.0), real)
    torch.testing.assert_close(found, torch.tensor([2 * 0.25**2 / 4], dtype=torch.float64))


@pytest.mark.parametrize("lengths", [[5, 5], [7, 1, 4], [3]])
@pytest.mark.parametrize("at_once", [1, 1 << 20])
def test_distance_and_gradients_equal_the_definition(
    lengths: list[int], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(attention_maps._CHUNK_ENTRIES, "cpu", at_once)
    longest, heads, batch = 7, 3, len(lengths)
    query, key = _leaves(batch, heads, longest, 4, seed=1)
    teacher = AttentionInputs(*_inputs(batch, heads, longest, 6, seed=2).unbind(0), 0.3)
    real = _real(lengths, longest)
    mask = real[:, None, None, :]
    found = map_distance(
        AttentionInputs(query, key, 0.5, mask), AttentionInputs(teacher.query, teacher.key, 0.3, mask), real
    )
    weights = torch.arange(1.0, batch + 1, dtype=torch.float64)
    gradients = torch.autograd.grad((found * weights).sum(), [query, key])
    wanted = _by_hand(query, key, 0.5, teacher, lengths)
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(gradients, torch.autograd.grad((wanted * weights).sum(), [query, key]), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_additive_and_absent_masks_are_understood() -> None:
    student, teacher = (AttentionInputs(*_inputs(2, 2, 5, 4, seed=seed).unbind(0), 0.5) for seed in (1, 2))
    real = _real([5, 3], 5)
    allowed = real[:, None, None, :]
    added = torch.zeros(2, 1, 5, 5, dtype=torch.float64).masked_fill(~allowed, torch.finfo(torch.float64).min)
    with_bool, with_sum = (
        map_distance(
            AttentionInputs(student.query, student.key, 0.5, mask),
            AttentionInputs(teacher.query, teacher.key, 0.5, mask),
            real,
        )
        for mask in (allowed, added)
    )
    torch.testing.assert_close(with_bool, with_sum)
    whole = torch.ones(2, 5, dtype=torch.bool)
    torch.testing.assert_close(
        map_distance(student, teacher, whole), map_distance_definition(student.map(), teacher.map(), whole)
    )


def test_equal_inputs_have_no_distance_and_no_gradient() -> None:
    query, key = _leaves(2, 2, 6, 4, seed=3)
    other = AttentionInputs(query.detach(), key.detach(), 0.5)
    distance = map_distance(AttentionInputs(query, key, 0.5), other, _real([6, 2], 6))
    assert torch.equal(distance, torch.zeros(2, dtype=torch.float64))
    assert all(not gradient.any() for gradient in torch.autograd.grad(distance.sum(), [query, key]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_inputs_are_compared_in_float32(dtype: torch.dtype) -> None:
    """The distance is that of the rounded inputs; gradients are rounded to the inputs' dtype."""
    query, key = _leaves(2, 2, 9, 8, seed=1, dtype=dtype)
    teacher = AttentionInputs(*_inputs(2, 2, 9, 8, seed=2, dtype=dtype).unbind(0), 0.4)
    found = map_distance(AttentionInputs(query, key, 0.4), teacher, _real([9, 9], 9))
    assert found.dtype == torch.float32
    wide_query, wide_key = (part.detach().double().requires_grad_(True) for part in (query, key))
    wanted = _by_hand(wide_query, wide_key, 0.4, teacher, [9, 9])
    # A sum over 2 heads x 9 x 9 squares in float32, all positive.
    torch.testing.assert_close(found.double(), wanted, rtol=summation_tolerance(2 * 9 * 9, torch.float32), atol=0)
    ours = torch.autograd.grad(found.sum(), [query, key])
    theirs = torch.autograd.grad(wanted.sum(), [wide_query, wide_key])
    for one, other in zip(ours, theirs, strict=True):
        # 16 bits: the scores' gradients are rounded, and so are their sums, over 9 positions. Float32: those sums,
        # after others over the 8 entries of a head and over the 9 of a softmax.
        tolerance = summation_tolerance(9 + 8 + 9 if dtype == torch.float32 else 2, dtype)
        torch.testing.assert_close(one.double(), other, rtol=0, atol=tolerance * float(other.abs().max()))


def test_autocast_does_not_coarsen_the_maps() -> None:
    query, key = _leaves(1, 2, 6, 4, seed=1, dtype=torch.float32)
    teacher = AttentionInputs(*_inputs(1, 2, 6, 4, seed=2, dtype=torch.float32).unbind(0), 0.5)
    real = _real([6], 6)
    plain = map_distance(AttentionInputs(query, key, 0.5), teacher, real)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = map_distance(AttentionInputs(query, key, 0.5), teacher, real)
    assert torch.equal(plain, cast)


def test_nothing_of_the_maps_size_is_kept_for_the_backward_pass() -> None:
    heads, length, size = 4, 64, 8
    kept: list[int] = []

    def remember(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    query, key = _leaves(1, heads, length, size, seed=1)
    teacher = AttentionInputs(*_inputs(1, heads, length, size, seed=2).unbind(0), 0.5)
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        map_distance(AttentionInputs(query, key, 0.5), teacher, _real([length], length)).sum()
    assert kept and max(kept) <= heads * length * size < heads * length * length


def test_maps_of_different_heads_are_refused() -> None:
    student, teacher = (AttentionInputs(*_inputs(1, h, 5, 4, seed=1).unbind(0), 0.5) for h in (2, 3))
    with pytest.raises(ValueError, match=r"\(1, 2, 5\).*\(1, 3, 5\)"):
        map_distance(student, teacher, _real([5], 5))
