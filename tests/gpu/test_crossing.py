"""Which tensors of the CPU and of the device may meet. It holds on CUDA, and for the device that stands in for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

REFUSED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "pointwise": lambda there, here: there + here,
    "in place": lambda there, here: here.add_(there),
    "a scalar of the device": lambda there, here: here.add_(there[0, 0]),
    "a scalar of the CPU, in place": lambda there, here: here[0, 0].add_(there[0, 0]),
    "where": lambda there, here: torch.where(there > 0, here, there),
    "product": lambda there, here: there @ here,
    "joined": lambda there, here: torch.cat([there, here]),
    "joined scalars": lambda there, here: torch.stack([there[0, 0], here[0, 0]]),
    "selected": lambda there, here: there.index_select(0, torch.tensor([1, 0])),
    "gathered": lambda there, here: there.gather(0, torch.tensor([[1, 0]])),
    "added at places": lambda there, here: there.index_add_(0, torch.tensor([1, 0]), there),
    "embedded": lambda there, here: functional.embedding(torch.tensor([1, 0]), there),
    "indices of the device": lambda there, here: here[torch.tensor([1, 0]).to(there.device)],
    "values of the CPU": lambda there, here: there.index_put_((torch.tensor([1, 0]).to(there.device),), here),
    "compared": lambda there, here: torch.equal(there, here),
    "the CPU's generator": lambda there, here: torch.rand(2, device=there.device, generator=torch.Generator()),
    "numpy": lambda there, here: there.numpy(),
}
ALLOWED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a scalar of the CPU": lambda x, other: x * torch.tensor(2.0),
    "a scalar of the CPU where": lambda x, other: x.masked_fill(x > 0, torch.tensor(2.0)),
    "indices of the CPU": lambda x, other: x[torch.tensor([1, 0])],
    "copied": lambda x, other: x.copy_(other),
    "made there": lambda x, other: x + torch.arange(2, device=x.device) + torch.tensor([1.0, 2.0], device=x.device),
    "through a view": lambda x, other: (x.view(-1).index_fill_(0, torch.arange(2, device=x.device), 7.0), x)[1],
    "out of the way": lambda x, other: x.to(other) + other,
}


@pytest.fixture
def there(device: torch.device) -> Tensor:
    if device.type == "cpu":
        pytest.skip("the CPU is no other device")
    return torch.tensor([[1.0, -2.0], [3.0, 4.0]]).to(device)


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses(name: str, there: Tensor) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"device|numpy"):
        REFUSED[name](there, torch.ones(2, 2))


@pytest.mark.parametrize("name", ALLOWED)
def test_it_takes(name: str, there: Tensor) -> None:
    expected = ALLOWED[name](there.cpu(), torch.ones(2, 2))
    assert torch.equal(ALLOWED[name](there, torch.ones(2, 2)).cpu(), expected)


def test_backward_runs_in_a_thread_of_the_device(there: Tensor) -> None:
    threads = []
    weight = there.requires_grad_()
    weight.register_hook(lambda gradient: threads.append(threading.get_ident()))
    (weight * 3).sum().backward()
    assert threads != [threading.get_ident()] and weight.grad is not None and weight.grad.device == there.device
    assert torch.equal(weight.grad.cpu(), torch.full((2, 2), 3.0))


def test_autocast_multiplies_in_half_precision(there: Tensor) -> None:
    with torch.autocast(there.device.type, dtype=torch.bfloat16):
        product = functional.linear(there, there)
        assert (product.dtype, product.softmax(-1).dtype) == (torch.bfloat16, torch.float32)
