"""The module of FLix: one `LowRankDelta` for each combination of features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xlt.modules import Feature, FeatureMixture, LowRankDelta, ModuleFileError, ModuleStack, load_module
from xlt.modules.module_file import read_module_file, write_module_file

FEATURES = (
    Feature("domain", 0, ("news", "web")),
    Feature("language", 1, ("hau", "ibo", "yor")),
    Feature("task", 2, ("ner", "pos")),
)
SHAPES = {"up.weight": (6, 4), "down.weight": (4, 6)}


def factors(dtype: torch.dtype = torch.float32) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return {
        weight: {
            f.name: (drawn(len(f.values), f.rank, columns), drawn(len(f.values), rows, f.rank))
            for f in FEATURES
            if f.rank
        }
        for weight, (rows, columns) in SHAPES.items()
    }


@pytest.fixture
def mixture(module_header: Callable[..., Any]) -> FeatureMixture:
    header = module_header(kind="feature_mixture", method="flix", task="several")
    return FeatureMixture(header, FEATURES, factors(), {"head": torch.arange(3.0)})


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Module()
    made.up, made.down = nn.Linear(4, 6), nn.Linear(6, 4)
    made.head = nn.Parameter(torch.zeros(3))
    return made


def expected(weight: str, **numbers: int) -> Tensor:
    """Eq. 2, one feature after the other."""
    own = factors()[weight]
    total = torch.zeros(SHAPES[weight])
    for name, number in numbers.items():
        a, b = own[name]
        total += b[number] @ a[number]
    return total


@pytest.mark.parametrize(
    ("features", "numbers"),
    [
        ({"task": "pos", "language": "ibo"}, {"task": 1, "language": 1}),
        ({"task": "ner", "language": "yor", "domain": "web"}, {"task": 0, "language": 2}),
        ({"task": "ner", "language": "fao"}, {"task": 0}),  # a new language: the task alone
        ({"task": "pos"}, {"task": 1}),
    ],
)
def test_the_module_of_some_features_adds_their_products_and_comes_off_bit_for_bit(
    features: dict[str, str], numbers: dict[str, int], mixture: FeatureMixture, model: nn.Module, bits: Any
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    module = mixture.for_features(**features)
    assert isinstance(module, LowRankDelta) and module.scale == 1
    assert module.header.provenance["features"].keys() == numbers.keys()
    module.apply(model)
    for weight in SHAPES:
        added = model.state_dict()[weight] - before[weight]
        torch.testing.assert_close(added, expected(weight, **numbers), atol=1e-5, rtol=0)  # sums of 3 terms near 1
    assert torch.equal(model.head, torch.arange(3.0))
    module.remove(model)
    assert bits(model.state_dict()) == bits(before)


def test_several_combinations_and_other_modules_stand_together(
    mixture: FeatureMixture, model: nn.Module, module_header: Callable[..., Any], bits: Any
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = LowRankDelta(module_header(kind="low_rank"), {"up.weight": (torch.ones(1, 4), torch.ones(6, 1))}, 0.5)
    stack = ModuleStack(model)
    stack.set([other, mixture.for_features(task="pos", language="hau")])
    stack.set([mixture.for_features(task="ner", language="ibo"), other])
    total = model.state_dict()["up.weight"] - before["up.weight"]
    torch.testing.assert_close(total, expected("up.weight", task=0, language=1) + 0.5, atol=1e-5, rtol=0)
    stack.set([])
    assert bits(model.state_dict()) == bits(before)


@pytest.mark.parametrize(
    ("features", "facts"),
    [
        ({"task": "parsing", "language": "hau"}, ["task=parsing", "ner, pos"]),
        ({"language": "hau"}, ["task", "not given", "ner, pos"]),
        ({"task": "pos", "dialect": "kano"}, ["dialect=kano", "domain, language, task"]),
    ],
)
def test_what_it_cannot_be_used_for_is_refused_with_what_it_knows(
    features: dict[str, str], facts: list[str], mixture: FeatureMixture
) -> None:
    with pytest.raises(ValueError) as error:
        mixture.for_features(**features)
    assert all(fact in str(error.value) for fact in facts)


def test_without_a_task_feature_an_unknown_language_leaves_nothing_to_apply(module_header: Callable[..., Any]) -> None:
    header = module_header(kind="feature_mixture", method="flix")
    own = {weight: {"language": by_name["language"]} for weight, by_name in factors().items()}
    mixture = FeatureMixture(header, [FEATURES[1]], own)
    with pytest.raises(ValueError, match=r"language=fao.*language"):
        mixture.for_features(language="fao")


def test_a_mixture_of_several_values_cannot_be_applied_whole(
    mixture: FeatureMixture, model: nn.Module, bits: Any
) -> None:
    before = bits(model.state_dict())
    with pytest.raises(ValueError, match=r"hau, ibo, yor.*for_features"):
        mixture.apply(model)
    assert bits(model.state_dict()) == before


def test_one_of_a_language_run_gives_the_modules_of_its_languages(module_header: Callable[..., Any]) -> None:
    own = {weight: {"language": by_name["language"]} for weight, by_name in factors().items()}
    header = module_header(kind="feature_mixture", method="flix")
    mixture = FeatureMixture(header, [FEATURES[1]], own)
    module = mixture.for_language("ibo")
    assert isinstance(module, LowRankDelta) and module.header.language == "ibo"
    a, b = own["up.weight"]["language"]
    assert torch.equal(module.factors["up.weight"][0], a[1]) and torch.equal(module.factors["up.weight"][1], b[1])
    with pytest.raises(ValueError, match=r"fao.*hau, ibo, yor"):
        mixture.for_language("fao")


def test_a_task_module_is_used_for_every_language(mixture: FeatureMixture) -> None:
    assert mixture.for_language("ibo") is mixture


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_stored_mixture_comes_back_with_its_features(
    dtype: torch.dtype | None, mixture: FeatureMixture, tmp_path: Path
) -> None:
    mixture.save(tmp_path / "m.safetensors", dtype)
    loaded = load_module(tmp_path / "m.safetensors")
    assert isinstance(loaded, FeatureMixture) and loaded.features == mixture.features
    for weight, by_name in mixture.factors.items():
        for name, pair in by_name.items():
            for factor, came_back in zip(pair, loaded.factors[weight][name], strict=True):
                assert torch.equal(came_back, factor if dtype is None else factor.to(dtype))
    assert torch.equal(loaded.tensors["head"], mixture.tensors["head"])


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda layout, tensors: layout["features"][1].update(rank=2), "language"),
        (lambda layout, tensors: layout["features"][1].update(rank=-1), "rank"),
        (lambda layout, tensors: layout["features"][1].update(values=["hau", "hau", "yor"]), "hau"),
        (lambda layout, tensors: layout["features"][1].update(values=["hau"]), "language"),
        (lambda layout, tensors: layout["features"].append(dict(name="task", rank=0, values=["x"])), "task"),
        (lambda layout, tensors: tensors.pop("a:2:up.weight"), "up.weight|'a'"),
        (lambda layout, tensors: tensors["b:1:up.weight"].fill_(float("nan")), "NaN"),
        (lambda layout, tensors: tensors.update({"c:1:up.weight": torch.zeros(1)}), "c:1:up.weight"),
        (lambda layout, tensors: tensors.update({"a:1:up.weight": torch.zeros(3, 1, 9)}), "up.weight"),
        (lambda layout, tensors: tensors.update({"a:1:up.weight": torch.zeros(3, 1, 4, dtype=torch.int32)}), "dtype"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    change: Callable[..., Any], fact: str, mixture: FeatureMixture, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    mixture.save(path)
    header, tensors = read_module_file(path)
    change(header["layout"], tensors)
    write_module_file(path, header, tensors)
    with pytest.raises(ModuleFileError, match=fact):
        load_module(path)
