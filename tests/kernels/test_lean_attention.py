"""Attention in chunks, with dropout, against the plain definition in float64 and against torch's."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from xlt_kernels import lean_attention as module
from xlt_kernels.attention_maps import AttentionInputs
from xlt_kernels.dropout import draw_keep_mask
from xlt_kernels.lean_attention import is_leaner, lean_attention, lean_attention_definition

from tests.tolerance import summation_tolerance


def _leaves(length: int = 7, keys: int = 7, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    shapes = [(3, 2, length, 4), (3, 2, keys, 4), (3, 2, keys, 5)]
    query, key, value = (
        torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_(True) for shape in shapes
    )
    return query, key, value


def _mask(keys: int = 7) -> Tensor:
    return (torch.arange(keys) < torch.tensor([keys, 3, 5])[:, None])[:, None, None, :]


@pytest.mark.parametrize("at_once", [1, 1 << 20])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("masked", [False, True])
def test_result_and_gradients_equal_the_definition(
    at_once: int, dropout: float, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK_ENTRIES", at_once)
    query, key, value = _leaves()
    mask = _mask() if masked else None
    inputs = AttentionInputs(query, key, 0.7, mask)
    torch.manual_seed(3)
    found = lean_attention(inputs, value, dropout)
    torch.manual_seed(3)
    kept = draw_keep_mask((3, 2, 7, 7), dropout, query.device) if dropout else None
    wanted = lean_attention_definition(inputs, value, kept, dropout)
    torch.testing.assert_close(found, wanted)
    weights = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    ours = torch.autograd.grad((found * weights).sum(), [query, key, value])
    for one, other in zip(ours, torch.autograd.grad((wanted * weights).sum(), [query, key, value]), strict=True):
        torch.testing.assert_close(one, other)


def test_without_dropout_it_is_torchs() -> None:
    query, key, value = _leaves(length=4)
    found = lean_attention(AttentionInputs(query, key, 4**-0.5, _mask()), value, 0.0)
    torch.testing.assert_close(found, functional.scaled_dot_product_attention(query, key, value, attn_mask=_mask()))


def test_one_query_on_paper() -> None:
    """Two keys with equal weights and values 1 and 3 give 2; if dropout of 1/2 drops the first key, the result is 3."""
    zero = torch.zeros(1, 1, 2, 1)
    inputs = AttentionInputs(zero[:, :, :1], zero, 1.0)
    value = torch.tensor([[[[1.0], [3.0]]]])
    assert lean_attention(inputs, value, 0.0).item() == 2
    assert lean_attention_definition(inputs, value, torch.tensor([[[[False, True]]]]), 0.5).item() == 3


def test_dropout_keeps_the_mean() -> None:
    torch.manual_seed(0)
    zero = torch.zeros(1, 1, 1, 1)
    inputs = AttentionInputs(zero.expand(64, 8, 64, 1), zero.expand(64, 8, 64, 1), 1.0)
    found = lean_attention(inputs, torch.ones(64, 8, 64, 1), 0.3)
    assert found.mean().item() == pytest.approx(1, abs=0.01)
    assert found.std().item() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_are_float32_and_factors_have_the_inputs_precision(dtype: torch.dtype) -> None:
    """16 bits: the distribution, the gradients of the scores, and the results are rounded. Float32: 7 keys are summed
    over, after sums over 4 entries of a head and 7 of a softmax."""
    tolerance = summation_tolerance(7 + 4 + 7 if dtype == torch.float32 else 3, dtype)
    leaves = _leaves(dtype=dtype)
    wide = [leaf.detach().double().requires_grad_(True) for leaf in leaves]
    found = lean_attention(AttentionInputs(leaves[0], leaves[1], 0.5), leaves[2], 0.0)
    wanted = lean_attention(AttentionInputs(wide[0], wide[1], 0.5), wide[2], 0.0)
    assert found.dtype == dtype
    ours = torch.autograd.grad(found.sum(), leaves)
    theirs = torch.autograd.grad(wanted.sum(), wide)
    for one, other in zip((found, *ours), (wanted, *theirs), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=tolerance * float(other.detach().abs().max()))


def test_no_distribution_is_kept_for_the_backward_pass() -> None:
    kept: list[int] = []

    def remember(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    query, key, value = _leaves(length=64, keys=64, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        lean_attention(AttentionInputs(query, key, 0.5), value, 0.1)
    assert max(kept) == 3 * 2 * 64 * 64  # the mask, a byte an entry


@pytest.mark.parametrize(
    ("dtype", "length", "dropout", "wanted"),
    [
        (torch.float32, 512, 0.1, True),
        (torch.float32, 512, 0.0, False),
        (torch.bfloat16, 512, 0.0, True),
        (torch.bfloat16, 513, 0.1, False),
    ],
)
def test_it_is_preferred_where_it_was_measured_to_be_faster(
    dtype: torch.dtype, length: int, dropout: float, wanted: bool
) -> None:
    value = torch.zeros(1, 1, length, 2, dtype=dtype)
    assert is_leaner(value, dropout) is wanted
    with torch.no_grad():
        assert not is_leaner(value, dropout)
