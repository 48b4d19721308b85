"""What makes composing fast changes nothing: each part gives what OmegaConf gives, and leaves to it what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import xlt_conf
import yaml
from omegaconf import OmegaConf, SCMode
from omegaconf.errors import MissingMandatoryValue

from tests.xlt.compose.test_loading import everything
from xlt.compose import compose, hydra_ready, merging, parsing
from xlt.compose.instantiating import _object, instantiated, unresolved
from xlt.compose.merging import replace_content

CONF = Path(xlt_conf.__path__[0])
WORDS = [
    ["experiment=nano_fields"],
    ["experiment=pos", "data_dir=DATA", "model.path=MODEL", "+language_modules.paths.fao=FILE", "train.max_steps=7"],
    ["experiment=joint", "data_dir=DATA", "model.path=MODEL"],
]


def test_libyaml_reads_in_every_config_what_omegaconf_reads() -> None:
    for file in sorted(CONF.rglob("*.yaml"))[::4]:
        text = file.read_text(encoding="utf-8")
        assert repr(yaml.load(text, Loader=parsing._Loader)) == repr(yaml.load(text, Loader=parsing._HYDRAS_LOADER()))


@pytest.mark.parametrize(
    "text", ["a: 1e-3", "a: 2020-01-01", "a: .5", "a: 1_000", "a: on", "a: '1e-3'", "a: ${b:c,'d'}"]
)
def test_values_have_the_types_that_omegaconf_gives_them(text: str) -> None:
    assert yaml.load(text, Loader=parsing._Loader) == yaml.load(text, Loader=parsing._HYDRAS_LOADER())
    assert type(yaml.load("a: 1e-3", Loader=parsing._Loader)["a"]) is float


@pytest.mark.parametrize("text", ["a: 1\na: 2", "a: [1", "a: b: c", "\ta: 1", "a: !!python/name:os.system", "a: 'x"])
def test_what_is_no_config_is_refused_in_the_words_of_omegaconfs_own_loader(text: str) -> None:
    with pytest.raises(yaml.YAMLError) as ours:
        yaml.load(text, Loader=parsing._Loader)
    with pytest.raises(yaml.YAMLError) as own:
        yaml.load(text, Loader=parsing._HYDRAS_LOADER())
    assert str(ours.value) == str(own.value)


def test_an_interpolation_is_parsed_once_and_stands_for_what_it_did() -> None:
    config = OmegaConf.create({"a": 1, "b": "${a}-${oc.select:c,${a}}", "d": {"e": "${..a}"}})
    with hydra_ready():
        assert config.b == config.b == "1-1"
        config.a = 2
        assert (config.b, config.d.e) == ("2-2", 2)


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_the_object_of_a_config_is_omegaconfs(words: list[str]) -> None:
    with hydra_ready():
        config = compose(words)
    options: dict[str, Any] = {"resolve": True, "structured_config_mode": SCMode.INSTANTIATE}
    expected = OmegaConf.to_container(config, throw_on_missing=False, **options)
    made = _object(config)
    assert repr(made) == repr(expected)
    assert made == expected and type(made) is type(expected)
    assert made is not instantiated(config) and made.data.sources is not instantiated(config).data.sources


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_a_config_that_is_not_resolved_is_omegaconfs(words: list[str]) -> None:
    with hydra_ready():
        config = compose(words)
    ours, expected = unresolved(config), OmegaConf.to_container(config)
    assert ours == expected and repr(ours) == repr(expected)
    assert "${" in repr(ours), "there is something that could have been resolved"
    assert ours["data"] is not unresolved(config)["data"], "the caller may change it"


def test_what_is_missing_is_said_by_omegaconf() -> None:
    with hydra_ready():
        config = compose(["experiment=nano_fields"])
    config.train.batch_size = "???"
    with pytest.raises(MissingMandatoryValue, match="batch_size"):
        instantiated(config)


def test_a_part_of_another_config_is_taken_over_as_by_assignment() -> None:
    with hydra_ready():
        parent = compose(["experiment=nano_fields", "method.density=0.5", "tracker=wandb", "tracker.group=${scale}"])
        ours, expected = compose(["experiment=nano_language"]), compose(["experiment=nano_language"])
    for key in ("method", "tracker", "launcher", "model"):
        expected[key] = parent._get_node(key)
        assert replace_content(ours, key, parent._get_node(key))
    assert list(everything(ours)) == list(everything(expected))
    assert ours.tracker.group == "mini" and ours.tracker._get_root() is ours
    ours.method.density = 0.25
    assert parent.method.density == 0.5 and parent.method._get_root() is parent
    assert not replace_content(ours, "seed", parent._get_node("seed"))
    with hydra_ready():
        other = compose(["experiment=nano_fields", "method=bitfit"])
    assert not replace_content(ours, "method", other._get_node("method"))


def test_the_same_files_are_merged_at_a_new_place_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = merging._merge

    def counted(files: Any, *rest: Any) -> Any:
        read.extend(file.config_path for file in files)
        return original(files, *rest)

    monkeypatch.setattr(merging, "_merge", counted)
    with hydra_ready():
        config = compose(["experiment=pos", "+source@data.sources.one=ud_tur", "+source@data.sources.two=ud_tur"])
    assert read.count("source/ud_tur") <= 1
    assert config.data.sources.one == config.data.sources.two
    assert config.data.sources.two._key() == "two" and config.data.sources.two._get_parent() is config.data.sources
    config.data.sources.one.codes.tur = "mine"
    assert config.data.sources.two.codes.tur != "mine"


def test_what_replaces_an_interpolation_is_merged_anew_at_each_place() -> None:
    """OmegaConf merges into the mapping that an interpolation stands for, so the rest of the config matters."""
    config = OmegaConf.create({"there": {"a": 1}, "x": "${there}", "y": "${data:file}", "data_dir": "DATA"})
    with hydra_ready(), merging._noting_interpolations() as looked_at:
        config.merge_with({"y": "other"})
        assert looked_at == []
        config.merge_with({"x": {"b": 2}})
    assert looked_at == ["${there}"] and config.x == {"a": 1, "b": 2}
