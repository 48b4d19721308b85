"""Where the operands of a sampled gradient lie in memory, and which layers share a copy of one."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from xlt_kernels import sparse_linear as module
from xlt_kernels.sparse_linear import sparse_linear
from xlt_kernels.sparse_pattern import SparsePattern

from tests.kernels.test_sparse_linear import layer, randn


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("lead", [(), (6,), (2, 3), (2, 1, 3)])
def test_a_feed_forward_network_by_token_has_the_same_values_and_gradients(
    lead: tuple[int, ...], with_bias: bool
) -> None:
    """The first layer's output lies by token, and so do the activation's and its gradient, which need no copies."""
    _, first_bias, first, delta, weight = layer(41, 17, 0.3, torch.float64)
    _, second_bias, second, other, back = layer(17, 41, 0.3, torch.float64)
    biases = (first_bias, second_bias) if with_bias else (None, None)
    x = randn(*lead, 17, seed=8, dtype=torch.float64).requires_grad_()
    results, inner = [], []
    for by_token in (False, True):
        hidden = sparse_linear(x, weight, biases[0], delta, first, by_token=by_token)
        hidden.register_hook(inner.append)
        y = sparse_linear(nn.functional.gelu(hidden), back, biases[1], other, second)
        results.append((hidden, y, *torch.autograd.grad(y.square().sum(), (x, delta, other))))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    if lead not in ((), (6,)):
        flat = [tensor.reshape(-1, 41).t() for tensor in (results[1][0], inner[1])]
        assert all(tensor.is_contiguous() for tensor in flat)
    with torch.no_grad():
        assert sparse_linear(x, weight, None, delta, first, by_token=True).is_contiguous()


def test_layers_with_one_input_share_its_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Tensor] = []
    by_token = module._by_token

    def noted(operand: Tensor, dtype: torch.dtype) -> Tensor:
        copied.append(operand)
        return by_token(operand, dtype)

    monkeypatch.setattr(module, "_by_token", noted)
    _, _, pattern, delta, weight = layer(300, 400, 0.01)
    deltas = [delta.detach().clone().requires_grad_() for _ in range(3)]
    x = randn(9, 400, seed=8)
    sum(sparse_linear(x, weight, None, one, pattern).square().sum() for one in deltas).backward()
    assert sorted(operand.shape[1] for operand in copied) == [300, 300, 300, 400]
    first = deltas[0].grad.clone()
    # An input that was changed in place is another input, and so is one of the next forward pass.
    x.mul_(2)
    deltas[0].grad = None
    for early in [sparse_linear(x, weight, None, one, pattern) for one in deltas][:1]:
        early.square().sum().backward()
    sparse_linear(x, weight, None, deltas[0], pattern).square().sum().backward()
    torch.testing.assert_close(deltas[0].grad, 8 * first)  # four times the gradient, twice
    assert len(copied) == 8


def test_a_shared_copy_is_freed_with_the_last_gradient() -> None:
    _, _, pattern, delta, weight = layer(300, 400, 0.01)
    x = randn(9, 400, seed=8)
    ys = [sparse_linear(x, weight, None, delta, pattern) for _ in range(2)]
    shared = ys[0].grad_fn.input  # type: ignore[union-attr]
    assert shared is ys[1].grad_fn.input and shared.layers == 2  # type: ignore[union-attr]
    ys[0].sum().backward()
    assert shared._copied is not None
    ys[1].sum().backward()
    assert shared._copied is None


def test_operands_that_lie_by_token_cost_no_copy() -> None:
    """A weight of 300 x 60 with 100 entries: a copy of dY costs more than the dense product, unless dY needs none."""
    order = torch.randperm(300 * 60, generator=torch.Generator().manual_seed(0))[:100].sort().values
    pattern = SparsePattern.from_indices(order, 300, 60)
    dy, x = randn(9, 300, seed=1), randn(60, 9, seed=2).t()
    for operand, chosen in ((dy, set()), (dy.t().contiguous().t(), {0})):
        assert module._blocks_by_dots(operand, x, pattern, [0, 300], [0, 100], None) == chosen


def test_inputs_that_checkpointing_frees_are_not_taken_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of one shape, whose inputs can have one address after another."""
    layers = [layer(200, 200, 0.01) for _ in range(6)]
    deltas = [parts[3].detach().clone().requires_grad_() for parts in layers]
    x = randn(9, 200, seed=8).requires_grad_()

    def run(x: Tensor) -> Tensor:
        for (*_, pattern, _, weight), delta in zip(layers, deltas, strict=True):
            x = torch.tanh(sparse_linear(x, weight, None, delta, pattern))
        return x

    expected = torch.autograd.grad(run(x).sum(), deltas)
    checkpoint(run, x, use_reentrant=False).sum().backward()
    assert all(torch.equal(delta.grad, gradient) for delta, gradient in zip(deltas, expected, strict=True))
    assert module._Input._latest is None
