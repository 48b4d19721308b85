"""Operators over modules, against definitions in float64 on dense deltas, and against peft's where it has them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xlt.data.streams import stream
from xlt.modules import Entries, ModuleArtefact, ModuleHeader, SparseDelta, load_module
from xlt.modules.adapter import Adapter, BottleneckAdapter, Ends, InvertibleAdapter
from xlt.modules.composition.arithmetic import block_of
from xlt.modules.composition.average import average
from xlt.modules.composition.dare import dare
from xlt.modules.composition.layers import layers
from xlt.modules.composition.minus import minus
from xlt.modules.composition.scattered import scattered
from xlt.modules.composition.sum import sum_deltas
from xlt.modules.composition.ties import ties
from xlt.modules.low_rank import LowRankDelta, Rescaling

SHAPES = {"emb.weight": (7, 4), **{f"layer.{number}.dense.weight": (4, 6) for number in range(5)}}
KINDS = ("sparse", "low_rank")
RANDOM = functools.partial(stream, 3)


def header(kind: str = "sparse_delta", **changes: Any) -> ModuleHeader:
    return ModuleHeader(**{"kind": kind, "method": "m", "base_model": "b", "base_hash": "h", **changes})


def sparse(seed: int, **changes: Any) -> SparseDelta:
    """A delta of which one tensor has every entry, one is in half precision, and one is left out in odd modules."""
    draw = torch.Generator().manual_seed(seed)
    entries = {}
    for number, (name, shape) in enumerate(SHAPES.items()):
        total = shape[0] * shape[1]
        if number == 2 and seed % 2:
            continue
        indices = None if number == 1 else (torch.rand(total, generator=draw) < 0.5).nonzero().flatten()
        values = torch.randn(total if indices is None else len(indices), generator=draw)
        entries[name] = Entries(indices, values.half() if number == 3 else values, shape)
    return SparseDelta(header(**changes), entries)


def low_rank(seed: int, rank: int | None = None) -> LowRankDelta:
    draw = torch.Generator().manual_seed(seed)
    rank = rank or 1 + seed % 3
    factors = {
        name: (torch.randn(rank, shape[1], generator=draw), torch.randn(shape[0], rank, generator=draw))
        for name, shape in SHAPES.items()
        if "layer" in name
    }
    return LowRankDelta(header("low_rank"), factors, 0.5 + seed)


MAKE: dict[str, Callable[[int], ModuleArtefact]] = {"sparse": sparse, "low_rank": low_rank}


def dense(module: ModuleArtefact) -> dict[str, Tensor]:
    """What a module adds to each tensor, in float64."""
    deltas = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    if isinstance(module, SparseDelta):
        for name, one in module.entries.items():
            places = torch.arange(one.total) if one.indices is None else one.indices.long()
            deltas[name].view(-1)[places] = one.values.double()
    else:
        assert isinstance(module, LowRankDelta)
        for name, (a, b) in module.factors.items():
            deltas[name] = module.scale * (b.double() @ a.double())
    return deltas


def assert_is(module: ModuleArtefact, expected: Callable[[str], Tensor]) -> None:
    for name, delta in dense(module).items():
        torch.testing.assert_close(delta, expected(name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_linear_operators_are_what_they_are_for_the_deltas(kind: str) -> None:
    one, two, three = (MAKE[kind](seed) for seed in (1, 2, 3))
    a, b, c = map(dense, (one, two, three))
    assert_is(sum_deltas([one, two, three]), lambda n: a[n] + b[n] + c[n])
    assert_is(sum_deltas([one, two], [0.25, -2]), lambda n: 0.25 * a[n] - 2 * b[n])
    assert_is(minus(one, two), lambda n: a[n] - b[n])
    assert_is(average([one, two, three]), lambda n: (a[n] + b[n] + c[n]) / 3)
    for order in itertools.permutations([one, two, three]):
        assert_is(sum_deltas(order), lambda n: a[n] + b[n] + c[n])
    assert_is(minus(sum_deltas([one, two]), two), lambda n: a[n])


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_taken_from_two_modules(kind: str) -> None:
    inner, outer = MAKE[kind](1), MAKE[kind](2)
    a, b = dense(inner), dense(outer)
    shares = {0: 0.5, 1: 1.0, 2: 1.0, 3: 0.5, 4: 0.0}  # of `inner`, with a transition of one block

    def expected(name: str, shares: dict[int, float]) -> Tensor:
        share = shares.get(block_of(name) if block_of(name) is not None else -1, 0.0)  # type: ignore[arg-type]
        return share * a[name] + (1 - share) * b[name]

    assert_is(layers(inner, outer, 1, 2, transition=1), lambda n: expected(n, shares))
    assert_is(layers(inner, outer, 1, 2), lambda n: expected(n, {1: 1.0, 2: 1.0}))
    assert_is(layers(inner, outer, 0, 4), lambda n: expected(n, dict.fromkeys(range(5), 1.0)))
    assert_is(layers(inner, inner, 2, 3, transition=2), lambda n: a[n])
    if kind == "sparse":
        swapped = layers(inner, outer, 1, 2)
        assert isinstance(swapped, SparseDelta) and isinstance(inner, SparseDelta)
        block = "layer.2.dense.weight"
        assert torch.equal(swapped.entries[block].values, inner.entries[block].values.float())  # no entry more


def test_the_average_of_one_module_is_the_module_to_the_bit() -> None:
    for module in (sparse(4), low_rank(4)):
        again, before = dense(average([module])), dense(module)
        assert all(torch.equal(again[name], before[name]) for name in SHAPES)


def test_numbers_on_paper() -> None:
    def delta(indices: list[int], values: list[float]) -> SparseDelta:
        return SparseDelta(header(), {"w": Entries(torch.tensor(indices), torch.tensor(values).float(), (6,))})

    one, two, three = delta([0, 1, 2], [4, -1, 2]), delta([0, 1, 4], [2, 3, 1]), delta([0, 2, 4], [-1, -5, 1])
    #          index 0: 4, 2, -1   1: -1, 3   2: 2, -5   4: 1, 1
    merged = ties([one, two, three]).entries["w"]  # type: ignore[attr-defined]
    assert merged.indices.tolist() == [0, 1, 2, 4]
    assert merged.values.tolist() == [3, 3, -5, 1]
    # With two thirds of three entries, the smallest of each goes: -1 of the first, 1 of the second, and of the third -1
    # or 1, which are equal.
    trimmed = ties([one, two], density=2 / 3).entries["w"]  # type: ignore[attr-defined]
    assert dict(zip(trimmed.indices.tolist(), trimmed.values.tolist(), strict=True)) == {0: 3, 1: 3, 2: 2}


@pytest.mark.parametrize("density", [1.0, 0.4])
def test_ties_is_pefts_on_loras_of_equal_shape(density: float) -> None:
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    modules = [low_rank(seed, rank=3) for seed in (1, 2, 3)]
    weights = [1.0, 0.5, 2.0]
    merged = ties(modules, density=density, weights=weights)
    assert isinstance(merged, LowRankDelta) and merged.scale == 1
    roots = torch.tensor([(weight * module.scale) ** 0.5 for weight, module in zip(weights, modules, strict=True)])
    for name, pair in merged.factors.items():
        for side, ours in enumerate(pair):
            theirs = merge_utils.ties([module.factors[name][side] for module in modules], roots, density)
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("drop", [0.4, 0.9])
def test_dare_is_pefts_on_loras_of_equal_shape(drop: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """peft draws what stays from torch's own generator; here it gets the draws of our streams."""
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    modules = [low_rank(seed, rank=3) for seed in (1, 2, 3)]
    weights = [1.0, 0.5, 2.0]
    merged = dare(modules, drop=drop, random=RANDOM, weights=weights)
    assert isinstance(merged, LowRankDelta) and merged.scale == 1
    roots = torch.tensor([(weight * module.scale) ** 0.5 for weight, module in zip(weights, modules, strict=True)])
    for name, pair in merged.factors.items():
        for side, ours in enumerate(pair):
            draws = (torch.rand(ours.shape, generator=RANDOM("dare", n, name, "ab"[side])) for n in range(3))
            monkeypatch.setattr(torch, "bernoulli", lambda _, draws=draws: (next(draws) >= drop).float())
            theirs = merge_utils.dare_linear([module.factors[name][side] for module in modules], roots, 1 - drop)
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_dare_keeps_a_share_rescales_it_and_repeats_itself() -> None:
    count = 20_000
    big = SparseDelta(header(), {"w": Entries(torch.arange(count), torch.ones(count), (count * 2,))})
    thin = dare([big], drop=0.75, random=RANDOM).entries["w"]  # type: ignore[attr-defined]
    assert 0.22 < thin.values.numel() / count < 0.28
    assert set(thin.values.tolist()) == {4.0}  # divided by the quarter that stays; the others have no entry
    again = dare([big], drop=0.75, random=RANDOM).entries["w"]  # type: ignore[attr-defined]
    other = dare([big], drop=0.75, random=functools.partial(stream, 4)).entries["w"]  # type: ignore[attr-defined]
    assert torch.equal(again.indices, thin.indices) and not torch.equal(other.indices, thin.indices)
    modules = [sparse(seed) for seed in (1, 2)]
    a, b = map(dense, modules)
    assert_is(dare(modules, drop=0, random=RANDOM, weights=[1, 3]), lambda n: a[n] + 3 * b[n])
    loras = [low_rank(seed, rank=2) for seed in (1, 2)]
    together = dare(loras, drop=0, random=RANDOM)  # peft's way: A and B are added, each by itself
    name = "layer.0.dense.weight"
    roots = [module.scale**0.5 for module in loras]
    a_sum = sum(root * module.factors[name][0] for root, module in zip(roots, loras, strict=True))
    torch.testing.assert_close(together.factors[name][0], a_sum)  # type: ignore[attr-defined]


def adapter(seed: int, *, size: int = 2, inverse: bool = True, **changes: Any) -> Adapter:
    torch.manual_seed(seed)
    networks = {f"layer.{number}": BottleneckAdapter(4, size, "relu") for number in range(3)}
    invertible = InvertibleAdapter(4, (2, 2), "relu") if inverse else None
    ends = Ends("layer.0", None) if inverse else None
    return Adapter(header("adapter", **changes), networks, dict.fromkeys(networks, "sum"), invertible, ends)


def test_adapters_are_averaged_by_parameter_and_have_no_other_sum() -> None:
    one, two = adapter(1), adapter(2)
    mine = {**one.adapters["layer.1"].state_dict()}
    for same in (average([one]), sum_deltas([one])):  # laws: of one module both are the module, and the mean commutes
        assert isinstance(same, Adapter)
        assert all(torch.equal(tensor, mine[name]) for name, tensor in same.adapters["layer.1"].state_dict().items())
    turned = average([two, one])
    assert isinstance(turned, Adapter)
    mean = average([one, two])
    assert isinstance(mean, Adapter) and mean.invertible is not None and mean.ends == one.ends
    for path, network in mean.adapters.items():
        for name, value in network.state_dict().items():
            first, second = one.adapters[path].state_dict()[name], two.adapters[path].state_dict()[name]
            torch.testing.assert_close(value.double(), (first.double() + second.double()) / 2)
            assert torch.equal(value, turned.adapters[path].state_dict()[name])
    swapped = layers(one, two, 1, 1)
    assert isinstance(swapped, Adapter)
    for number, source in enumerate((two, one, two)):
        path = f"layer.{number}"
        assert torch.equal(swapped.adapters[path].up.weight, source.adapters[path].up.weight)
    with pytest.raises(ValueError, match=r"adapters at layer\.0 add up to 2: adapters are not linear"):
        sum_deltas([one, two])
    with pytest.raises(ValueError, match=r"adapters at layer\.0 have different sizes"):
        average([one, adapter(3, size=3)])
    with pytest.raises(ValueError, match="no merge by ties"):
        ties([one, two])


def test_heads_are_averaged_only_if_they_have_one_start() -> None:
    def tagger(seed: int, start: str | None) -> SparseDelta:
        module = sparse(seed, task="pos", provenance={"depends_on": {} if start is None else {"start": start}})
        module.tensors["head.weight"] = torch.full((2, 2), float(seed))
        return module

    related = average([tagger(1, "s"), tagger(2, "s")])
    assert related.tensors["head.weight"].tolist() == [[1.5, 1.5]] * 2  # type: ignore[attr-defined]
    for starts in ((None, None), ("s", "t"), ("s", None)):
        with pytest.raises(ValueError, match="unrelated heads cannot be merged"):
            average([tagger(seed, start) for seed, start in enumerate(starts, start=1)])
    with pytest.raises(ValueError, match="add up to 1"):
        sum_deltas([tagger(1, "s"), tagger(2, "s")])
    kept = minus(tagger(1, "s"), tagger(2, None))
    assert kept.tensors["head.weight"].tolist() == [[1, 1]] * 2  # type: ignore[attr-defined]
    alone = sum_deltas([sparse(1, language="fao"), tagger(2, None)])
    assert (alone.header.language, alone.header.task) == (None, "pos")  # a task module, with a language in it
    relatives = average([sparse(1, language="fao"), sparse(2, language="fao")])
    assert (
        relatives.header.language,
        average([sparse(1, language="fao"), sparse(2, language="isl")]).header.language,
    ) == (
        "fao",
        None,
    )
    without = minus(sparse(1, language="fao"), sparse(2, language="isl"))
    assert (without.header.language, without.header.task) == ("fao", None)
    assert alone.header.provenance["depends_on"] == {} and len(alone.header.provenance["parts"]) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_is_a_module_that_is_saved_applied_and_removed_to_the_bit(kind: str, tmp_path: Path) -> None:
    class Base(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for number, (name, shape) in enumerate(SHAPES.items()):
                *path, last = name.split(".")
                place: nn.Module = self
                for part in path:
                    if not hasattr(place, part):
                        place.add_module(part, nn.Module())
                    place = getattr(place, part)
                draw = torch.Generator().manual_seed(number)
                place.register_parameter(last, nn.Parameter(torch.randn(shape, generator=draw)))

    made = layers(MAKE[kind](1), average([MAKE[kind](2), MAKE[kind](5)]), 1, 3, transition=1)
    made.save(tmp_path / "made.safetensors")
    module, model = load_module(tmp_path / "made.safetensors"), Base()
    assert module.header.method == "layers" and len(module.header.provenance["parts"]) == 2
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    module.apply(model)
    for name, delta in dense(made).items():
        torch.testing.assert_close(
            model.get_parameter(name).double(), before[name].double() + delta, rtol=1e-5, atol=1e-5
        )
    module.remove(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_what_does_not_fit_together_is_refused() -> None:
    one = sparse(1)
    with pytest.raises(ValueError, match="at least one"):
        ties([])
    with pytest.raises(ValueError, match="different kinds"):
        average([one, low_rank(1)])
    with pytest.raises(ValueError, match="base model"):
        average([one, sparse(2, base_hash="other")])
    with pytest.raises(ValueError, match="1 modules but 2 weights"):
        dare([one], drop=0.5, random=RANDOM, weights=[1, 2])
    with pytest.raises(ValueError, match=r"drop=1.*below 1"):
        dare([one], drop=1, random=RANDOM)
    with pytest.raises(ValueError, match=r"density=0.*above 0"):
        ties([one], density=0)
    with pytest.raises(ValueError, match="blocks up to 4"):
        layers(one, one, 2, 5)
    with pytest.raises(ValueError, match="0 <= first <= last"):
        layers(one, one, 3, 2)
    with pytest.raises(ValueError, match="ranks of all modules must be equal"):
        ties([low_rank(1), low_rank(2)])
    with pytest.raises(ValueError, match="must not be negative"):
        ties([low_rank(1), low_rank(4)], weights=[1, -1])
    scaled = Rescaling(
        header("rescaling"), {"layer.0.dense.weight": torch.ones(4, 1)}, {"layer.0.dense.weight": (4, 6)}
    )
    with pytest.raises(ValueError, match="kind rescaling cannot be combined"):
        average([scaled])
    both = {"encoder.layer.0.w": (2, 2), "decoder.layer.0.w": (2, 2)}
    pair = SparseDelta(header(), {name: Entries(None, torch.ones(4), shape) for name, shape in both.items()})
    with pytest.raises(ValueError, match=r"several lists of blocks, decoder\.layer, encoder\.layer"):
        layers(pair, pair, 0, 0)
    tuned = sparse(1)
    tuned.tensors["layer.1.norm"] = torch.ones(3)
    with pytest.raises(ValueError, match=r"'layer\.1\.norm' of a block was trained in full"):
        layers(one, tuned, 0, 1)


def test_scattered_keeps_the_size_and_the_values_of_each_tensor_and_nothing_of_their_places() -> None:
    module = sparse(2)
    module.tensors["head.weight"] = torch.ones(2)
    found, again = scattered(module, RANDOM), scattered(module, RANDOM)
    other = scattered(module, functools.partial(stream, 4))
    for name, entries in module.entries.items():
        moved = found.entries[name]
        assert torch.equal(moved.values.sort().values, entries.values.sort().values)
        assert (moved.indices is None) == (entries.indices is None)
        assert torch.equal(moved.values, again.entries[name].values)
    dense = [torch.cat([_dense(one, name).flatten() for name in SHAPES]) for one in (module, found, other)]
    assert not torch.equal(dense[0], dense[1]) and not torch.equal(dense[1], dense[2])
    # A weight's chance to be an entry is that of any other: about half of the entries are in new places.
    places = [one != 0 for one in dense[:2]]
    assert 0.3 < float((places[0] & places[1]).sum() / places[0].sum()) < 0.8
    assert torch.equal(found.tensors["head.weight"], torch.ones(2))


def _dense(module: SparseDelta, name: str) -> Tensor:
    entries = module.entries[name]
    flat = torch.zeros(entries.total)
    flat[slice(None) if entries.indices is None else entries.indices.long()] = entries.values.float()
    return flat
