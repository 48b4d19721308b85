"""Composing with the cache makes the configs that Hydra alone makes, and sees every change of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra._internal.config_loader_impl as hydra_loading
import hydra._internal.defaults_list as hydra_defaults
import pytest
import xlt_conf
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import Container, DictConfig, ListConfig, Node, OmegaConf

from xlt.compose import compose, hydra_ready, loading
from xlt.errors import UsageError

CONF = Path(xlt_conf.__path__[0])
COMMANDS = [
    ["experiment=nano_fields"],
    ["experiment=pos", "method=mad_x", "train.learning_rate=0.5", "+source@data.sources.tur=ud_tur", "++x=1"],
    ["experiment=ner", "scale=thesis", "method=bitfit", "hydra.job.name=x", "data.sources={}"],
    ["experiment=language", "language=eng", "model=xlm_r"],
    ["experiment=instruct", "tracker=wandb", "launcher=slurm"],
]


@pytest.fixture
def hydras_own(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Composes as Hydra does without this module."""
    with hydra_ready():
        loader = GlobalHydra.instance().config_loader()
        own_list, own_map = hydra_defaults.create_defaults_list, loading.HYDRAS_INTERPOLATION_MAP

        def compose_slowly(words: list[str]) -> DictConfig:
            with monkeypatch.context() as patch:
                patch.setattr(hydra_loading, "create_defaults_list", own_list)
                patch.setattr(hydra_defaults, "_create_interpolation_map", own_map)
                search_path = loader.get_search_path()
                return hydra_loading.ConfigLoaderImpl(search_path).load_configuration("config", words, RunMode.RUN)

        yield compose_slowly


def compose_fast(words: list[str]) -> DictConfig:
    loader = GlobalHydra.instance().config_loader()
    assert type(loader) is loading.Loader
    return loader.load_configuration("config", words, RunMode.RUN)


def everything(node: Node, path: str = "", parent: Node | None = None) -> Iterator[tuple[Any, ...]]:
    """Yields what OmegaConf knows of each node of a config."""
    about = node._metadata
    value = node._value() if not isinstance(node, Container) or node._is_none() or node._is_interpolation() else None
    flags = {name: flag for name, flag in (about.flags or {}).items() if flag is not None}
    yield (
        path,
        type(node),
        about.ref_type,
        about.object_type,
        about.optional,
        about.key,
        flags,
        value,
        node._get_parent() is parent,
    )
    if isinstance(node, DictConfig | ListConfig) and isinstance(node._content, dict | list):
        children = node._content.items() if isinstance(node._content, dict) else enumerate(node._content)
        for key, child in children:
            yield from everything(child, f"{path}.{key}", node)


def same(words: list[str], hydras_own: Any) -> None:
    expected = list(everything(hydras_own(words)))
    for _ in range(2):  # composed, and taken from the cache
        assert list(everything(compose_fast(words))) == expected


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_config_is_hydras(words: list[str], hydras_own: Any) -> None:
    same(words, hydras_own)


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["mini", "thesis"])
@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_the_config_of_every_experiment_is_hydras(experiment: str, scale: str, hydras_own: Any) -> None:
    for method in ("lt_sft", "mad_x", "spiel_ag"):
        same([f"experiment={experiment}", f"scale={scale}", f"method={method}"], hydras_own)


def test_a_change_of_a_config_is_seen_and_a_change_of_the_result_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GlobalHydra.instance(), "hydra", None)
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    for seed in (7, 8):
        file.write_text(f"# @package _global_\nseed: {seed}\n")
        with hydra_ready(str(tmp_path)):
            config = compose(["experiment=mine"])
            assert config.seed == seed
            config.seed = 99
            assert compose(["experiment=mine", "threads=1"]).seed == seed
    file.unlink()
    with hydra_ready(str(tmp_path)), pytest.raises(UsageError, match="mine"):
        compose(["experiment=mine"])


def test_the_search_path_of_a_command_counts(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "experiment").mkdir(parents=True)
        (tmp_path / name / "experiment" / "mine.yaml").write_text(f"# @package _global_\nexperiment_name: {name}\n")
    for name in ("a", "b", "a"):
        with hydra_ready():
            words = ["experiment=mine", f"hydra.searchpath=[file://{tmp_path / name}]"]
            assert compose_fast(words).experiment_name == name


def test_a_schema_that_is_another_class_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from xlt.compose.composing import register_schema
    from xlt.methods import bitfit

    with hydra_ready():
        before = compose_fast(["method=bitfit"])
    other = dataclasses.make_dataclass("Other", [("also", int, 5)], bases=(bitfit.SCHEMA,))
    monkeypatch.setattr(bitfit, "SCHEMA", other)
    with hydra_ready():
        assert compose_fast(["method=bitfit"]).method.also == 5
    monkeypatch.undo()
    register_schema("method/base_bitfit", bitfit.SCHEMA)
    with hydra_ready():
        assert OmegaConf.to_container(compose_fast(["method=bitfit"]).method) == OmegaConf.to_container(before.method)


def test_few_files_are_read_for_a_second_composition(monkeypatch: pytest.MonkeyPatch) -> None:
    with hydra_ready():
        compose_fast(["experiment=pos", "method=full"])
        monkeypatch.setattr(OmegaConf, "load", lambda file: pytest.fail(f"{file} is read again"))
        compose_fast(["experiment=pos", "method=full", "train.learning_rate=0.25"])


def test_a_folder_with_links_to_nothing_and_to_itself_composes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GlobalHydra.instance(), "hydra", None)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    (tmp_path / ".#mine.yaml").symlink_to("somebody@nowhere.1")  # as an editor leaves it
    (tmp_path / "experiment" / "again").symlink_to(tmp_path)
    with hydra_ready(str(tmp_path)):
        assert compose_fast(["experiment=mine"]).seed == 7


def test_a_folder_with_very_many_files_is_composed_without_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GlobalHydra.instance(), "hydra", None)
    monkeypatch.setattr(loading, "_MOST_FILES", 3)
    monkeypatch.setattr(loading, "_configs", {})
    with hydra_ready(str(tmp_path)):
        assert compose_fast(["experiment=nano_fields"]).experiment_name == "nano_fields"
    assert loading._configs == {}


def test_a_mapping_of_a_schema_is_emptied_by_deleting_it() -> None:
    with hydra_ready():
        words = ["experiment=nano_fields", "~data.evaluation"]
        assert len(compose(words[:1]).data.evaluation) > 1
        assert len(compose(words).data.evaluation) == 0 and len(compose(words).data.sources) == 1
        with pytest.raises(UsageError, match=r"~data\.evaluation: would also remove what \+source@data\.evaluation\.x"):
            compose([*words, "+source@data.evaluation.x=locale_expressions"])
