"""Expressions over modules: what they compute, against definitions in float64; their texts; a new operator."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch import Tensor

from tests.xlt.modules.composition.test_operators import MAKE, SHAPES, adapter, assert_is, dense, low_rank, sparse
from xlt.compose import checked, compose, hydra_ready
from xlt.data.streams import stream
from xlt.errors import UsageError
from xlt.modules import ModuleArtefact, SparseDelta
from xlt.modules.adapter import Adapter
from xlt.modules.composition.expression import computed, leaves, operation, operators
from xlt.modules.composition.weighted import weighted
from xlt.modules.low_rank import LowRankDelta
from xlt.plug_ins import VARIABLE

Deltas = Sequence[dict[str, Tensor]]


def value(modules: dict[str, ModuleArtefact], operator: str, *of: Any, **settings: Any) -> ModuleArtefact:
    whole = operation({"operator": operator, "of": list(of), **settings}, "x")
    return computed(whole, modules, stream)


def ties_defined(modules: Sequence[SparseDelta], density: float, weights: Sequence[float]) -> Callable[[str], Tensor]:
    def of(name: str) -> Tensor:
        kept = []
        for module in modules:
            whole = dense(module)[name].flatten()
            own = module.entries[name].values.numel() if name in module.entries else 0
            count = max(1, int(density * own)) if own else 0
            threshold = whole.abs().sort(descending=True).values[count - 1] if count else torch.inf
            kept.append(torch.where(whole.abs() >= threshold, whole, 0.0))
        stacked = torch.stack(kept)
        sign = torch.where(stacked.sum(0) >= 0, 1.0, -1.0)
        agrees = (stacked * sign > 0).double()
        scaled = stacked * torch.tensor(weights, dtype=torch.float64)[:, None] * agrees
        return (scaled.sum(0) / agrees.sum(0).clamp(min=1)).view(SHAPES[name])

    return of


def dare_defined(modules: Sequence[SparseDelta], drop: float, seed: int) -> Callable[[str], Tensor]:
    def of(name: str) -> Tensor:
        total = torch.zeros(SHAPES[name], dtype=torch.float64)
        for number, module in enumerate(modules):
            if (entries := module.entries.get(name)) is None:
                continue
            draws = torch.rand(entries.values.shape, generator=stream(seed, "dare", number, name, "values"))
            places = torch.arange(entries.total) if entries.indices is None else entries.indices.long()
            total.view(-1)[places] += torch.where(draws >= drop, entries.values.double(), 0.0) / (1 - drop)
        return total

    return of


def test_operators_that_prune_are_their_definitions_on_sparse_deltas() -> None:
    modules = {name: sparse(seed) for name, seed in (("a", 1), ("b", 2), ("c", 5))}
    for density, weights in itertools.product((1.0, 0.5), ([1.0, 1.0, 1.0], [0.5, 2.0, 1.0])):
        merged = value({**modules}, "ties", "a", "b", "c", density=density, weights=weights)
        assert_is(merged, ties_defined([*modules.values()], density, weights))
    for seed, drop in itertools.product((0, 3), (0.0, 0.5, 0.9)):
        assert_is(
            value({**modules}, "dare", *modules, drop=drop, seed=seed), dare_defined([*modules.values()], drop, seed)
        )


@pytest.mark.parametrize("kind", MAKE)
def test_weights_by_name_are_their_definition(kind: str) -> None:
    one, two = MAKE[kind](1), MAKE[kind](2)
    a, b = dense(one), dense(two)
    weights = {"layer.[12].*": [1.0, 0.25], "emb*": [0.0, 2.0], "*": [0.5, -1.0]}
    if kind == "low_rank":
        del weights["emb*"]

    def expected(name: str) -> Tensor:
        first, second = weights["layer.[12].*" if name[:7] in ("layer.1", "layer.2") else "emb*" if "emb" in name and
                                kind == "sparse" else "*"]  # fmt: skip
        return first * a[name] + second * b[name]

    assert_is(weighted([one, two], weights), expected)
    with pytest.raises(ValueError, match=r"no pattern fits '.*'; '\*' fits all names"):
        weighted([one, two], {"layer.0*": [1, 1]})
    with pytest.raises(ValueError, match="pattern 'nowhere' has no tensor"):
        weighted([one, two], {"nowhere": [1, 1], "*": [1, 1]})


def test_weights_by_name_average_adapters() -> None:
    one, two = adapter(1), adapter(2)
    mean = weighted([one, two], {"layer.1": [0.25, 0.75], "*": [1, 0]})
    assert isinstance(mean, Adapter)
    for path, (first, second) in {"layer.0": (1, 0), "layer.1": (0.25, 0.75)}.items():
        for name, tensor in mean.adapters[path].state_dict().items():
            a, b = one.adapters[path].state_dict()[name], two.adapters[path].state_dict()[name]
            torch.testing.assert_close(tensor.double(), first * a.double() + second * b.double())


@pytest.mark.parametrize("kind", MAKE)
def test_laws(kind: str) -> None:
    modules = {name: MAKE[kind](seed) for name, seed in (("a", 1), ("b", 2))}
    deltas = {name: dense(module) for name, module in modules.items()}

    def same(module: ModuleArtefact, other: ModuleArtefact) -> bool:
        one, two = dense(module), dense(other)
        return all(torch.equal(one[name], two[name]) for name in SHAPES)

    plus = {"operator": "sum", "of": ["a", "b"]}
    if kind == "sparse":  # two values have one sum; of factors the order changes how the product is added up
        assert same(value(modules, "sum", "a", "b"), value(modules, "sum", "b", "a"))
    assert_is(value(modules, "sum", "b", "a"), lambda n: deltas["a"][n] + deltas["b"][n])
    assert same(value(modules, "average", "a"), modules["a"])
    assert same(value(modules, "layers", "a", "b", first=0, last=4), _without_embeddings(modules["a"], modules["b"]))
    assert_is(value(modules, "minus", plus, "b"), lambda n: deltas["a"][n])
    assert_is(value(modules, "sum", {"operator": "minus", "of": ["a", "b"]}, "b"), lambda n: deltas["a"][n])
    assert same(value(modules, "weighted", "a", "b", weights={"*": [1.0, 0.0]}), modules["a"])
    if kind == "sparse":
        assert same(value(modules, "ties", "a"), modules["a"]) and same(
            value(modules, "dare", "a", drop=0), modules["a"]
        )


def _without_embeddings(inner: ModuleArtefact, outer: ModuleArtefact) -> ModuleArtefact:
    """All blocks of one module, and what is outside of the blocks of another one."""
    if isinstance(inner, LowRankDelta):
        return inner  # which has only blocks
    assert isinstance(inner, SparseDelta) and isinstance(outer, SparseDelta)
    return SparseDelta(inner.header, {**inner.entries, "emb.weight": outer.entries["emb.weight"]})


def test_minus_undoes_sum_to_the_bit_where_modules_do_not_overlap() -> None:
    whole, other = sparse(4), sparse(2)
    for name, entries in list(other.entries.items()):
        if (indices := entries.indices) is None or whole.entries[name].indices is None:
            del other.entries[name]
        else:
            apart = ~torch.isin(indices, whole.entries[name].indices)
            other.entries[name] = type(entries)(indices[apart], entries.values[apart], entries.shape)
    modules: dict[str, ModuleArtefact] = {"a": whole, "b": other}
    back = dense(value(modules, "minus", {"operator": "sum", "of": ["a", "b"]}, "b"))
    assert all(torch.equal(back[name], dense(whole)[name]) for name in SHAPES)


def test_texts_follow_from_expressions() -> None:
    def text(value: Any) -> str:
        return str(operation(value, "x"))

    assert text("task") == "task" and text("base") == "base"
    assert text({"operator": "stack", "of": ["language", {"operator": "stack", "of": ["a", "task"]}]}) == (
        "task+a+language"
    )
    nested = {"operator": "ties", "of": ["language", {"operator": "average", "of": ["task", "b"]}], "density": 0.2}
    assert text(nested) == "ties(language, average(task, b); density=0.2)"
    assert text({**nested, "density": 1.0}) == "ties(language, average(task, b))"
    assert text({"operator": "layers", "of": ["task", "language"], "first": 4, "last": 7}) == (
        "layers(task, language; first=4, last=7)"
    )
    assert leaves(operation(nested, "x")) == ["language", "task", "b"]


def test_a_kind_that_an_operator_does_not_take_is_refused_when_it_is_read() -> None:
    modules: dict[str, ModuleArtefact] = {"a": adapter(1), "b": adapter(2), "l": low_rank(1)}
    for operator, settings in (("ties", {}), ("dare", {"drop": 0.5}), ("minus", {})):
        with pytest.raises(ValueError, match=rf"{operator} takes only sparse_delta, low_rank"):
            value(modules, operator, "a", "b", **settings)
    with pytest.raises(ValueError, match="only modules of one kind are combined"):
        value(modules, "average", "a", "l")
    with pytest.raises(UsageError, match=r"x\.of\[0\]=base: the base is no module"):
        operation({"operator": "sum", "of": ["base", "a"]}, "x")


def test_a_new_operator_is_a_file_and_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "composition").mkdir()
    (tmp_path / "conf" / "composition").mkdir(parents=True)
    (tmp_path / "composition" / "halved.py").write_text(
        '"""A module times a share."""\n'
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from xlt.config import key\n"
        "from xlt.modules.composition.expression import DELTAS, OperatorConfig\n"
        "from xlt.modules.composition.sum import sum_deltas\n"
        "@dataclass\n"
        "class HalvedConfig(OperatorConfig):\n"
        "    takes = DELTAS\n"
        "    count = 1\n"
        "    operator: str = 'halved'\n"
        "    share: float = key('what is left', low=0)\n"
        "SCHEMA = HalvedConfig\n"
        "def compute(modules, share):\n"
        "    return sum_deltas(modules, [share])\n"
    )
    (tmp_path / "conf" / "composition" / "halved.yaml").write_text(
        "defaults: [base_halved, _self_]\nof: [task]\nshare: 0.5\n"
    )
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    import xlt.modules.composition as package

    before = list(package.__path__)
    GlobalHydra.instance().clear()  # the one of this file's tests does not know the folder
    try:
        with hydra_ready():
            words = ["+composition@compositions.x=halved", "+source@data.sources.eng=ud_eng", "model.path=x"]
            config = checked(compose([*words, "+source@data.validation.eng=ud_eng", "data.validation.eng.split=dev"]))
            whole = operation(config.compositions["x"], "x")
        assert str(whole) == "halved(task; share=0.5)" and "halved" in operators()
        assert_is(computed(whole, {"task": sparse(2)}, stream), lambda n: dense(sparse(2))[n] / 2)
    finally:
        package.__path__[:] = before
        os.environ.pop(VARIABLE, None)
    assert "halved" not in operators()
