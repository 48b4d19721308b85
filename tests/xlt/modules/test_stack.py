import gc
import random
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn
from xlt_kernels.delta_write import swap_delta

from xlt.modules import Entries, ModuleStack, SparseDelta

LAYER = "backbone.encoder.layer.0.attention.self"
NAMES = [f"{LAYER}.query.weight", f"{LAYER}.key.weight", "backbone.embeddings.LayerNorm.bias"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ten_thousand_random_switches_leave_the_base_bit_identical(
    model: nn.Module, random_delta: Callable, snapshot: Callable, same_bits: Callable, dtype: torch.dtype
) -> None:
    model.to(dtype)
    modules = [random_delta(model, seed, density=0.3, names=NAMES, with_head=True) for seed in range(3)]
    before = snapshot(model)
    stack, dice = ModuleStack(model), random.Random(5)
    for _ in range(10_001 if dtype == torch.float32 else 501):  # odd, so that one is active at the end
        module = dice.choice(modules)
        if module in stack.active:
            stack.remove(module)
        else:
            stack.apply(module)
    assert stack.active
    assert not same_bits(model, before)
    stack.set([])
    assert same_bits(model, before)


def test_removal_from_the_middle_leaves_what_the_others_alone_would_give(
    model: nn.Module, random_delta: Callable, snapshot: Callable, same_bits: Callable
) -> None:
    first, middle, last = (random_delta(model, seed, density=0.5, with_head=True) for seed in range(3))
    stack = ModuleStack(model)
    stack.set([first, last])
    expected = snapshot(model)
    stack.set([])
    stack.set([first, middle, last])
    stack.remove(middle)
    assert stack.active == (first, last)
    assert same_bits(model, expected)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_removal_in_any_order_restores_the_base(
    model: nn.Module, random_delta: Callable, snapshot: Callable, same_bits: Callable, order: tuple[int, ...]
) -> None:
    modules = [random_delta(model, seed, density=0.5) for seed in range(3)]
    before = snapshot(model)
    for module in modules:
        module.apply(model)
    for place in order:
        modules[place].remove(model)
    assert same_bits(model, before)


def test_overlapping_modules_add_up_entry_by_entry(header: Callable) -> None:
    model = nn.Module()
    model.head = nn.Parameter(torch.tensor([10.0, 20, 30]))
    one = SparseDelta(header(), {"head": Entries(torch.tensor([0, 1]), torch.tensor([1.0, 2]), (3,))})
    two = SparseDelta(header(), {"head": Entries(torch.tensor([1, 2]), torch.tensor([4.0, 8]), (3,))})
    one.apply(model)
    two.apply(model)
    assert model.head.tolist() == [11, 26, 38]
    one.remove(model)
    assert model.head.tolist() == [10, 24, 38]


def test_setting_the_same_modules_again_writes_nothing(model: nn.Module, random_delta: Callable) -> None:
    stack = ModuleStack(model)
    modules = [random_delta(model, seed) for seed in range(2)]
    stack.set(modules)
    versions = [weight._version for weight in model.parameters()]
    stack.set(modules)
    assert [weight._version for weight in model.parameters()] == versions


def test_a_switch_rewrites_only_from_the_first_difference_on(model: nn.Module, random_delta: Callable) -> None:
    task = random_delta(model, 0, names=[NAMES[0]])
    languages = [random_delta(model, seed, names=[NAMES[1]]) for seed in (1, 2)]
    stack = ModuleStack(model)
    stack.set([task, languages[0]])
    version = model.get_parameter(NAMES[0])._version
    stack.set([task, languages[1]])
    assert model.get_parameter(NAMES[0])._version == version
    assert stack.active == (task, languages[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [2**15, 7])  # a tensor's entries in one block, and in several
def test_a_switch_from_one_module_to_another_is_one_pass_a_tensor(
    model: nn.Module, random_delta: Callable, snapshot: Callable, same_bits: Callable, dtype: torch.dtype, block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Two languages, which share entries and tensors but not all, under a task that shares entries with both."""
    model.to(dtype)
    monkeypatch.setattr("xlt_kernels.delta_write._CPU_BLOCK", block)
    swapped: list[torch.Tensor] = []

    def counted(weight: torch.Tensor, *arguments: torch.Tensor) -> torch.Tensor:
        swapped.append(weight)
        return swap_delta(weight, *arguments)

    monkeypatch.setattr("xlt.modules.sparse_delta.swap_delta", counted)
    base = snapshot(model)
    english = random_delta(model, 0, density=0.4, names=NAMES[:2])
    german = random_delta(model, 1, density=0.3, names=NAMES[1:], with_head=True)
    task = random_delta(model, 2, density=0.5, names=NAMES)
    stack = ModuleStack(model)
    expected = []
    for language in (english, german):
        stack.set([language, task])
        expected.append(snapshot(model))
        stack.set([])
    assert not swapped
    stack.set([english, task])
    for language, weights in [(german, expected[1]), (english, expected[0])]:
        swapped.clear()
        stack.set([language, task])
        assert same_bits(model, weights)
        assert len(swapped) == 1 and swapped[0] is model.get_parameter(NAMES[1])
    stack.set([])
    assert same_bits(model, base)


def test_a_switch_that_fails_half_way_leaves_neither_module(
    model: nn.Module, random_delta: Callable, snapshot: Callable, same_bits: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = snapshot(model)
    first, second = (random_delta(model, seed, density=0.4, names=NAMES) for seed in range(2))
    stack = ModuleStack(model)
    stack.set([first])
    calls: list[int] = []

    def failing(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return swap_delta(*arguments)

    monkeypatch.setattr("xlt.modules.sparse_delta.swap_delta", failing)
    with pytest.raises(MemoryError):
        stack.set([second])
    assert stack.active == () and same_bits(model, base)


def test_a_model_of_another_dtype_keeps_its_modules_until_it_has_its_dtype_again(
    model: nn.Module, random_delta: Callable, snapshot: Callable, same_bits: Callable
) -> None:
    base = snapshot(model)
    first, second = (random_delta(model, seed, density=0.4, names=NAMES) for seed in range(2))
    stack = ModuleStack(model)
    stack.set([first])
    model.double()
    with pytest.raises(ValueError, match=r"dtype changed from torch\.float32 to torch\.float64"):
        stack.set([second])
    assert stack.active == (first,)
    model.float()
    stack.set([second])
    stack.set([])
    assert same_bits(model, base)


def test_a_set_with_one_unfit_module_changes_nothing(
    model: nn.Module, random_delta: Callable, header: Callable, snapshot: Callable, same_bits: Callable
) -> None:
    stack = ModuleStack(model)
    active = random_delta(model, 0)
    stack.set([active])
    before = snapshot(model)
    unfit = SparseDelta(header(), {"absent": Entries(None, torch.ones(2), (2,))})
    with pytest.raises(ValueError, match="no tensor 'absent'"):
        stack.set([random_delta(model, 1), unfit])
    assert stack.active == (active,)
    assert same_bits(model, before)


def test_a_module_is_active_at_most_once_and_removed_only_when_active(model: nn.Module, random_delta: Callable) -> None:
    module, other = random_delta(model, 0), random_delta(model, 1)
    module.apply(model)
    with pytest.raises(ValueError, match="twice"):
        module.apply(model)
    with pytest.raises(ValueError, match="not active"):
        other.remove(model)
    assert ModuleStack(model).active == (module,)


def test_two_stacks_over_one_model_are_one(
    model: nn.Module, random_delta: Callable, snapshot: Callable, same_bits: Callable
) -> None:
    before = snapshot(model)
    below, above = random_delta(model, 0, density=0.6), random_delta(model, 1, density=0.6)
    ModuleStack(model).apply(below)
    above.apply(model)
    assert ModuleStack(model).active == (below, above)
    below.remove(model)
    ModuleStack(model).remove(above)
    assert same_bits(model, before)


def test_a_model_with_active_modules_is_freed_when_nobody_uses_it(tagger: nn.Module, random_delta: Callable) -> None:
    model = nn.Module()
    model.backbone = nn.Linear(4, 4)
    module = random_delta(model, 0, density=0.5)
    module.apply(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
