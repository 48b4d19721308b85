"""Every task and every recipe of `conf` composes, is without fault, and can be built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import xlt_conf
from omegaconf import OmegaConf, SCMode

from xlt.compose import compose, hydra_ready
from xlt.config import DataConfig, faults
from xlt.engine.build import build_task
from xlt.tasks.task import Task

FOLDER = Path(str(xlt_conf.__file__)).parent


@pytest.fixture(autouse=True, scope="module")
def _hydra() -> Iterator[None]:
    with hydra_ready():
        yield


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (FOLDER / group).glob("*.yaml") if not file.stem.startswith("_"))


def part(group: str, name: str) -> object:
    config = compose([f"{group}={name}"])[group]
    return OmegaConf.to_container(config, resolve=True, structured_config_mode=SCMode.INSTANTIATE)


@pytest.mark.parametrize("name", names("task"))
def test_a_task_of_conf_is_built_from_its_file(name: str) -> None:
    config = part("task", name)
    assert list(faults(config, "task")) == []
    task = build_task(config)
    assert isinstance(task, Task)
    assert task.metric and task.max_length > 0


@pytest.mark.parametrize(
    ("words", "every", "shares"),
    [
        (("experiment=language", "language=fao"), 1000, {"fao": 0.05}),
        (("experiment=language", "language=ara"), 5000, {"ara": 0.01}),
        (("experiment=bistil", "target=fao"), 1000, {"eng": 0.01, "fao": 0.05}),
        (("experiment=bistil", "target=tur"), 5000, {"eng": 0.01, "tur": 0.01}),
        (("experiment=bistil_scratch", "target=sme"), 1000, {"eng": 0.01, "sme": 0.05}),
    ],
)
def test_high_resource_languages_hold_out_less_and_are_evaluated_less_often(
    words: tuple[str, ...], every: int, shares: dict[str, float]
) -> None:
    """§4.4.2, §5.4.2: every 1,000 steps on 5%, of high-resource languages every 5,000 on 1%; at mini scale none is."""
    config = compose([*words, "scale=thesis"])
    data = OmegaConf.to_object(config.data)
    assert isinstance(data, DataConfig)
    assert config.train.evaluate_every_steps == every
    assert {source.language: data.held_out_of(source.language) for source in data.sources.values()} == shares
    assert compose([*words]).data.held_out_fractions == {}


def test_students_keep_single_characters_at_mini_scale_alone() -> None:
    """§5.3.2: "only the tokens" of probability 1e-6."""
    kept = {scale: compose(["experiment=bistil", "target=fao", f"scale={scale}"]) for scale in ("mini", "thesis")}
    assert {scale: config.model.student.characters for scale, config in kept.items()} == {"mini": True, "thesis": False}


@pytest.mark.parametrize("name", ["locale", "nli_thesis", "sentiment_mini", "sentiment_thesis"])
def test_ttrain_single_learns_and_validates_on_one_targets_translations_alone(name: str) -> None:
    """§6.4.3: "on the data of each target language alone"."""
    task, _, scale = name.partition("_")
    data = compose([f"data={task}_ttrain_single" + (f"_{scale}" if scale else ""), "target=aym"]).data
    for part in (data.sources, data.validation):
        assert [(source.origin, source.language) for source in part.values()] == [("translated", "aym")]
    assert len(data.evaluation) >= 7
