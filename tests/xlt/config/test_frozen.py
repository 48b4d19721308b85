from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from xlt.compose import checked, compose, hydra_ready, plain
from xlt.config import FrozenConfigError, RunConfig, frozen


@pytest.fixture
def config() -> RunConfig:
    with hydra_ready():
        return checked(compose(["experiment=nano_fields"]))


CHANGES: dict[str, Callable[[RunConfig], object]] = {
    "a value": lambda config: setattr(config, "seed", 2),
    "a value of a part": lambda config: setattr(config.train, "batch_size", 2),
    "a value of a method": lambda config: setattr(config.method, "l1", 2.0),
    "a value of a task": lambda config: setattr(config.task, "max_length", 9),
    "a value of a source": lambda config: setattr(config.data.sources["eng"], "cap", 1),
    "a deleted value": lambda config: delattr(config, "seed"),
    "a new entry": lambda config: config.data.sources.__setitem__("fao", config.data.sources["eng"]),
    "an entry less": lambda config: config.data.sources.pop("eng"),
    "an updated mapping": lambda config: config.data.benchmarks.update({}),
    "a default": lambda config: config.data.evaluation.setdefault("eng", config.data.sources["eng"]),
    "a longer list": lambda config: config.language_modules.overrides.append("seed=2"),
    "another item": lambda config: config.language_modules.overrides.__setitem__(0, "seed=2"),
    "a list added in place": lambda config: config.language_modules.overrides.__iadd__(["seed=2"]),
    "a sorted list": lambda config: config.language_modules.overrides.sort(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nobody_changes_a_checked_config(change: str, config: RunConfig) -> None:
    before = plain(config)
    with pytest.raises(FrozenConfigError):
        CHANGES[change](config)
    assert plain(config) == before


def _copies(config: RunConfig) -> list[RunConfig]:
    return [copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))]


@pytest.mark.parametrize("number", range(3))
def test_a_copy_is_equal_and_frozen_too(number: int, config: RunConfig) -> None:
    made = _copies(config)[number]
    assert made == config and plain(made) == plain(config)
    for change in CHANGES.values():
        with pytest.raises(FrozenConfigError):
            change(made)


def _changes(config: RunConfig) -> str:
    try:
        config.seed = 2
    except FrozenConfigError:
        return "refused"
    return "changed"


def test_another_process_gets_a_frozen_config(config: RunConfig) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_changes, (config,)) == "refused"


def test_replace_gives_another_config_and_leaves_the_first(config: RunConfig) -> None:
    other = dataclasses.replace(config, seed=config.seed + 1)
    assert other.seed == config.seed + 1 and other.data == config.data
    assert dataclasses.asdict(other) == {**dataclasses.asdict(config), "seed": other.seed}


def test_the_schema_of_a_plug_in_need_not_know_of_freezing() -> None:
    @dataclass
    class Theirs:
        rate: float = 0.1
        names: list[str] = field(default_factory=list)

    free, fixed = Theirs(), frozen(Theirs())
    free.rate, free.names = 0.2, ["a"]
    with pytest.raises(FrozenConfigError):
        fixed.rate = 0.2
    with pytest.raises(FrozenConfigError):
        fixed.names.append("a")
    assert fixed == Theirs()
