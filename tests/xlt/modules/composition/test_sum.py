from collections.abc import Callable

import pytest
import torch
from torch import nn

from xlt.modules import Entries, SparseDelta, sum_deltas


def _entries(indices: list[int] | None, values: list[float], size: int = 6) -> Entries:
    return Entries(
        None if indices is None else torch.tensor(indices), torch.tensor(values, dtype=torch.float32), (size,)
    )


def test_a_worked_example_is_the_sum_over_the_union(header: Callable) -> None:
    one = SparseDelta(header(language="fao"), {"a": _entries([0, 2], [1, 2]), "b": _entries([1], [5])})
    two = SparseDelta(header(task="pos"), {"a": _entries([2, 5], [10, 20])}, {"head": torch.ones(2)})
    total = sum_deltas([one, two])
    assert total.entries["a"].indices.tolist() == [0, 2, 5]
    assert total.entries["a"].values.tolist() == [1, 12, 20]
    assert total.entries["b"].indices.tolist() == [1]
    assert total.entries["b"].values.tolist() == [5]
    assert total.tensors["head"].tolist() == [1, 1]
    assert (total.header.method, total.header.language, total.header.task) == ("sum", None, "pos")
    assert [part["language"] for part in total.header.provenance["parts"]] == ["fao", None]


def test_weights_scale_the_deltas(header: Callable) -> None:
    one = SparseDelta(header(), {"a": _entries([0, 2], [1, 2])})
    two = SparseDelta(header(), {"a": _entries([2], [10])})
    total = sum_deltas([one, two], weights=[0.5, -1])
    assert total.entries["a"].values.tolist() == [0.5, -9]
    assert total.header.provenance["settings"] == {"weights": [0.5, -1]}


def test_a_dense_part_makes_the_sum_dense(header: Callable) -> None:
    dense = SparseDelta(header(), {"a": _entries(None, [1, 1, 1, 1, 1, 1])})
    sparse = SparseDelta(header(), {"a": _entries([1, 4], [2, 3])})
    for order in ([dense, sparse], [sparse, dense]):
        total = sum_deltas(order).entries["a"]
        assert total.indices is None
        assert total.values.tolist() == [1, 3, 1, 1, 4, 1]


def test_half_precision_parts_are_summed_in_float32(header: Callable) -> None:
    half = Entries(torch.tensor([0]), torch.tensor([2048.0], dtype=torch.float16), (6,))
    total = sum_deltas([SparseDelta(header(), {"a": half}), SparseDelta(header(), {"a": _entries([0], [1])})])
    assert total.entries["a"].values.tolist() == [2049]  # float16 holds 2048 and 2050 only


def test_the_sum_of_disjoint_or_exact_deltas_equals_applying_them_in_turn(
    model: nn.Module, random_delta: Callable, snapshot: Callable, same_bits: Callable
) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randint(-50, 50, weight.shape))
    modules = [random_delta(model, seed, density=0.5) for seed in range(3)]
    for module in modules:
        for entries in module.entries.values():
            entries.values.mul_(10).round_()  # integers: float32 sums of them are exact in any order
    for module in modules:
        module.apply(model)
    expected = snapshot(model)
    for module in modules:
        module.remove(model)
    sum_deltas(modules).apply(model)
    assert same_bits(model, expected)


def test_a_single_module_is_returned_as_it_is_and_not_shared(header: Callable) -> None:
    one = SparseDelta(header(), {"a": _entries([0, 2], [1, 2])})
    total = sum_deltas([one])
    total.entries["a"].values.zero_()
    assert one.entries["a"].values.tolist() == [1, 2]


def test_modules_without_a_sum_are_refused(header: Callable) -> None:
    delta = SparseDelta(header(), {"a": _entries([0], [1])})
    head = SparseDelta(header(), {}, {"head": torch.ones(2)})
    with pytest.raises(ValueError, match="at least one"):
        sum_deltas([])
    with pytest.raises(ValueError, match=r"\b2 modules.*\b1 weights"):
        sum_deltas([delta, head], weights=[1])
    with pytest.raises(ValueError, match="'head' was trained in full in 2 modules, which did not start from one"):
        sum_deltas([head, SparseDelta(header(), {}, {"head": torch.zeros(2)})])
    with pytest.raises(ValueError, match="'a' is both a sparse delta and a fully trained tensor"):
        sum_deltas([delta, SparseDelta(header(), {}, {"a": torch.ones(6)})])
    with pytest.raises(ValueError, match="different shapes"):
        sum_deltas([delta, SparseDelta(header(), {"a": _entries([0], [1], size=7)})])
    with pytest.raises(ValueError, match="base model"):
        sum_deltas([delta, SparseDelta(header(base_hash="other"), {})])
