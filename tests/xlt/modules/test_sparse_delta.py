import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from xlt.modules import Entries, ModuleHeader, SparseDelta
from xlt.modules import sparse_delta as sparse_delta_file

QUERY = "backbone.encoder.layer.0.attention.self.query.weight"


def _one(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def _indices(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def test_a_worked_example_comes_out_as_on_paper(header: Callable[..., ModuleHeader]) -> None:
    """2 x 3 weight, two changed entries, a replaced bias.

    [[1 2 3]      + 0.5 at row 0, column 2      [[1 2 3.5]
     [4 5 6]]     - 1   at row 1, column 1  =    [4 4 6  ]]      bias [9 9] becomes [7 8]
    """
    model = nn.Module()
    model.head = nn.Linear(3, 2)
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
        model.head.bias.fill_(9)
    delta = SparseDelta(
        header(),
        {"head.weight": Entries(_indices(2, 4), _one(0.5, -1), (2, 3))},
        {"head.bias": _one(7, 8)},
    )
    delta.apply(model)
    assert model.head.weight.tolist() == [[1, 2, 3.5], [4, 4, 6]]
    assert model.head.bias.tolist() == [7, 8]
    delta.remove(model)
    assert model.head.weight.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert model.head.bias.tolist() == [9, 9]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_applying_adds_in_float32_and_rounds_once_then_restores_every_bit(
    model: nn.Module, random_delta: Callable, snapshot: Callable, same_bits: Callable, dtype: torch.dtype
) -> None:
    model.to(dtype)
    delta = random_delta(model, seed=1, with_head=True)
    before = snapshot(model)
    delta.apply(model)
    wide = torch.promote_types(dtype, torch.float32)
    for name, weight in model.named_parameters():
        expected = before[name].flatten().to(wide, copy=True)
        if name in delta.entries:
            expected[delta.entries[name].indices.long()] += delta.entries[name].values
        expected = expected.to(dtype).view(weight.shape)
        if name == "head.weight":
            expected = delta.tensors[name].to(dtype)
        assert torch.equal(weight, expected), name
    delta.remove(model)
    assert same_bits(model, before)


def test_entries_without_indices_are_every_entry(
    model: nn.Module, header: Callable, snapshot: Callable, same_bits: Callable
) -> None:
    weight = model.get_parameter(QUERY)
    before = snapshot(model)
    values = torch.randn(weight.numel())
    delta = SparseDelta(header(), {QUERY: Entries(None, values, weight.shape)})
    delta.apply(model)
    assert torch.equal(weight, before[QUERY] + values.view(weight.shape))
    delta.remove(model)
    assert same_bits(model, before)


def test_displaced_negative_zero_and_subnormals_come_back(header: Callable) -> None:
    model = nn.Module()
    model.head = nn.Parameter(torch.tensor([-0.0, 1e-42, 3.0]))
    before = model.head.detach().clone().view(torch.int32)
    delta = SparseDelta(header(), {"head": Entries(_indices(0, 1, 2), _one(1, 1, 1), (3,))})
    delta.apply(model)
    delta.remove(model)
    assert torch.equal(model.head.detach().view(torch.int32), before)


def test_a_tensor_that_is_not_contiguous_is_changed_and_restored(header: Callable) -> None:
    model = nn.Module()
    model.head = nn.Parameter(torch.arange(6.0).view(2, 3).t())
    delta = SparseDelta(header(), {"head": Entries(_indices(1), _one(10), (3, 2))})
    delta.apply(model)
    assert model.head.tolist() == [[0, 13], [1, 4], [2, 5]]
    delta.remove(model)
    assert model.head.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_indices_past_2_to_the_31_reach_their_entry(header: Callable, tmp_path: Path) -> None:
    rows, columns = 66_000, 33_000  # 2,178,000,000 entries; a sparse file stands for the memory
    backing = tmp_path / "weight"
    weight = torch.from_file(str(backing), shared=True, size=rows * columns, dtype=torch.float16).view(rows, columns)
    model = nn.Module()
    model.head = nn.Parameter(weight, requires_grad=False)
    last = rows * columns - 1
    delta = SparseDelta(header(), {"head": Entries(_indices(5, 2**31 + 1, last), _one(1, 2, 3), weight.shape)})
    assert delta.entries["head"].indices.dtype == torch.int64
    delta.save(tmp_path / "module.safetensors")
    loaded = SparseDelta.load(tmp_path / "module.safetensors")
    loaded.apply(model)
    places = [divmod(flat, columns) for flat in (5, 2**31 + 1, last)]
    assert [float(weight[place]) for place in places] == [1, 2, 3]
    loaded.remove(model)
    assert [float(weight[place]) for place in places] == [0, 0, 0]


def test_indices_are_kept_in_int32_where_they_fit() -> None:
    assert Entries(_indices(0, 1), _one(1, 2), (2**31 - 1,)).indices.dtype == torch.int32
    assert Entries(_indices(0, 1), _one(1, 2), (2**31,)).indices.dtype == torch.int64


@pytest.mark.parametrize(
    ("indices", "values", "fault"),
    [
        (_indices(2, 1), _one(1, 1), "ascending"),
        (_indices(1, 1), _one(1, 1), "ascending"),
        (_indices(0, 6), _one(1, 1), "0 to 6: .* 6 entries"),
        (_indices(-1, 2), _one(1, 1), "-1 to 2"),
        (_indices(0, 1), _one(1), "2 indices but 1 values"),
        (None, _one(1), "6 indices but 1 values"),
        (_one(0, 1), _one(1, 1), "int32 or int64"),
        (_indices(0, 1), _indices(1, 1), "int64.*float32"),
        (_indices(0, 1), _one(1, math.nan), "finite"),
        (_indices(0, 1), _one(1, math.inf), "finite"),
    ],
)
def test_impossible_entries_are_refused(indices: torch.Tensor | None, values: torch.Tensor, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Entries(indices, values, (2, 3))


def test_a_module_that_does_not_fit_changes_nothing_and_names_every_fault(
    model: nn.Module, header: Callable, snapshot: Callable, same_bits: Callable
) -> None:
    before = snapshot(model)
    good = Entries(_indices(0), _one(1), model.get_parameter(QUERY).shape)
    delta = SparseDelta(
        header(task="pos"),
        {QUERY: good, "backbone.absent": Entries(_indices(0), _one(1), (3,))},
        {"head.weight": torch.zeros(4, 32)},
    )
    with pytest.raises(
        ValueError, match=r"no tensor 'backbone\.absent'.*'head.weight' has shape .4, 32.*5, 32"
    ) as error:
        delta.apply(model)
    assert "task=pos" in str(error.value) and "\n" not in str(error.value)
    assert same_bits(model, before)


def test_lm_head_entries_are_left_out_only_where_there_is_no_lm_head(
    model: nn.Module, tagger: nn.Module, header: Callable
) -> None:
    entries = {
        QUERY: Entries(_indices(0), _one(1), (32, 32)),
        "lm_head.bias": Entries(_indices(7), _one(1), (300,)),
    }
    delta = SparseDelta(header(language="fao"), entries, {"lm_head.weight": torch.zeros(300, 32)})
    before = tagger.get_parameter(QUERY)[0, 0].item()
    delta.apply(tagger)
    assert tagger.get_parameter(QUERY)[0, 0].item() == torch.tensor(before).add(1).item()
    bias = model.lm_head.bias[7].item()
    delta.apply(model)
    assert model.lm_head.bias[7].item() == torch.tensor(bias).add(1).item()
    assert not model.lm_head.weight.any()
    wrong = SparseDelta(header(), {"lm_head.missing": Entries(_indices(0), _one(1), (2,))})
    wrong.check(tagger)
    with pytest.raises(ValueError, match=re.escape("no tensor 'lm_head.missing'")):
        wrong.check(model)


def test_a_shared_tensor_is_changed_under_either_name_but_not_under_both(model: nn.Module, header: Callable) -> None:
    embedding = "backbone.embeddings.word_embeddings.weight"
    model.lm_head.weight = model.get_parameter(embedding)
    before = model.get_parameter(embedding)[0, 1].item()
    change = Entries(_indices(1), _one(1), (300, 32))
    for name in (embedding, "lm_head.weight"):
        delta = SparseDelta(header(), {name: change})
        delta.apply(model)
        assert model.lm_head.weight[0, 1].item() == torch.tensor(before).add(1).item()
        delta.remove(model)
    both = SparseDelta(header(), {embedding: change, "lm_head.weight": change})
    with pytest.raises(ValueError, match=f"'{embedding}' and 'lm_head.weight' are one shared tensor"):
        both.apply(model)
    assert model.lm_head.weight[0, 1].item() == before


def test_a_write_that_fails_half_way_leaves_the_base(
    model: nn.Module, random_delta: Callable, snapshot: Callable, same_bits: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(model)
    delta = random_delta(model, seed=3)
    real, calls = sparse_delta_file.add_delta, []

    def failing(*args: torch.Tensor) -> torch.Tensor:
        calls.append(args)
        if len(calls) == 5:
            raise MemoryError
        return real(*args)

    monkeypatch.setattr(sparse_delta_file, "add_delta", failing)
    with pytest.raises(MemoryError):
        delta.apply(model)
    assert same_bits(model, before)
    monkeypatch.undo()
    delta.apply(model)
    assert not same_bits(model, before)


def test_a_name_cannot_be_both_a_delta_and_a_whole_tensor(header: Callable) -> None:
    with pytest.raises(ValueError, match=r"'head\.weight' is both"):
        SparseDelta(header(), {"head.weight": Entries(None, _one(1), (1,))}, {"head.weight": _one(1)})
    with pytest.raises(ValueError, match="'sparse_delta'"):
        SparseDelta(header(kind="adapter"), {})


def test_changing_dtype_under_an_active_module_is_refused_at_removal(model: nn.Module, random_delta: Callable) -> None:
    delta = random_delta(model, seed=1)
    delta.apply(model)
    model.to(torch.bfloat16)
    with pytest.raises(ValueError, match="remove them before changing its dtype"):
        delta.remove(model)


def test_applying_keeps_gradients_possible(model: nn.Module, random_delta: Callable) -> None:
    random_delta(model, seed=1, with_head=True).apply(model)
    for weight in model.parameters():
        assert weight.is_leaf and weight.requires_grad
    assert random_delta(model, seed=1).num_entries > 1000
