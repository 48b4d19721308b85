"""What was composed is taken from a store's cache only if a new composition would give the same."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

import xlt
from xlt import code_state
from xlt.compose import compose, composing, hydra_ready, kept_configs
from xlt.compose.kept_configs import composed_before, configs_kept_in

_WORDS = ("experiment=mine", "method=bitfit", "model.path=x", "seed=3")
_EXPERIMENT = "# @package _global_\ndefaults:\n  - override /task: pos\n  - _self_\nlanguage: {}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configs with an experiment; Hydra is not prepared yet."""
    monkeypatch.setattr(GlobalHydra.instance(), "hydra", None)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(_EXPERIMENT.format("eng"))
    return tmp_path / "conf"


@pytest.fixture
def composed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[DictConfig, bool]]]:
    """Composes as a new process does, which begins later; also returns whether Hydra composed."""
    (tmp_path / "cache").mkdir()
    called: list[Any] = []
    original = hydra.compose

    def counted(*arguments: Any, **options: Any) -> Any:
        called.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(composing.hydra, "compose", counted)

    def new(*words: str, began_ns: int | None = None) -> tuple[DictConfig, bool]:
        monkeypatch.setattr(xlt, "LOADED_NS", time.time_ns() + 10**10 if began_ns is None else began_ns)
        code_state._own_code_state.cache_clear()
        called.clear()
        with hydra_ready(str(folder)), configs_kept_in(tmp_path / "cache"):
            config = compose(words or _WORDS)
        return config, bool(called)

    yield new
    code_state._own_code_state.cache_clear()


def test_a_later_process_composes_nothing_again_and_gets_the_same(
    composed: Callable[..., tuple[DictConfig, bool]], folder: Path
) -> None:
    with hydra_ready(str(folder)):
        fresh = compose(_WORDS)
    first, again = composed(), composed()
    assert (first[1], again[1]) == (True, False)
    assert first[0] == again[0] == fresh and again[0].seed == 3 and again[0].language == "eng"
    assert OmegaConf.get_type(again[0].method) is OmegaConf.get_type(fresh.method)
    other, composes = composed(*_WORDS[:-1], "seed=4")  # values are set afterwards
    assert other.seed == 4 and not composes
    other, composes = composed(*_WORDS, "task=ner")
    assert other.task.labels != fresh.task.labels and composes


def test_a_changed_file_of_the_same_size_and_time_is_composed_afresh(
    composed: Callable[..., tuple[DictConfig, bool]], folder: Path
) -> None:
    composed()
    file = folder / "experiment" / "mine.yaml"
    before = file.stat()
    file.write_text(_EXPERIMENT.format("deu"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    config, composes = composed()
    assert config.language == "deu" and composes
    assert composed() == (config, False)


def test_a_new_file_that_the_config_takes_if_it_is_there_is_found(
    composed: Callable[..., tuple[DictConfig, bool]], folder: Path
) -> None:
    assert composed()[0].target is None
    (folder / "debug_by_method").mkdir()
    (folder / "debug_by_method" / "none_bitfit.yaml").write_text("# @package _global_\ntarget: fao\n")
    config, composes = composed()
    assert config.target == "fao" and composes


@pytest.mark.parametrize("what", ["library", "code", "schema"])
def test_other_libraries_code_or_schemas_compose_afresh(
    composed: Callable[..., tuple[DictConfig, bool]], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    composed()
    if what == "library":
        monkeypatch.setattr(kept_configs, "_libraries", lambda: ["another Hydra"])
    elif what == "schema":
        monkeypatch.setitem(composing.import_failures, "method/base_no", "cannot be imported")
    else:
        original = code_state.files_in

        def changed(*where: Any) -> Iterator[tuple[Any, ...]]:
            for path, *others in original(*where):
                yield path, *(number + str(path).endswith("compose/runs.py") for number in others)

        monkeypatch.setattr(code_state, "files_in", changed)
    assert composed()[1]
    assert not composed()[1]


def test_nothing_is_read_or_kept_if_a_file_changed_since_the_process_began(
    composed: Callable[..., tuple[DictConfig, bool]], folder: Path, tmp_path: Path
) -> None:
    changed = (folder / "experiment" / "mine.yaml").stat().st_ctime_ns
    assert composed(began_ns=changed)[1] and not (tmp_path / "cache" / "composed").exists()
    composed()
    assert composed(began_ns=changed)[1]


def test_plug_ins_whose_schemas_are_code_of_others_are_not_kept(
    composed: Callable[..., tuple[DictConfig, bool]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "plug-in" / "methods").mkdir(parents=True)
    monkeypatch.setenv("XLT_PLUGINS", str(tmp_path / "plug-in"))
    assert composed()[1] and composed()[1]


def test_a_damaged_file_is_composed_afresh(composed: Callable[..., tuple[DictConfig, bool]], tmp_path: Path) -> None:
    first, _ = composed()
    (file,) = (tmp_path / "cache" / "composed").iterdir()
    whole = file.read_text()
    for damaged in (whole.replace('"eng"', '"deu"'), whole[: len(whole) // 2], "", "\0"):
        assert damaged != whole
        file.write_text(damaged)
        assert composed() == (first, True)


def test_what_depends_on_the_environment_or_on_further_places_is_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xlt, "LOADED_NS", time.time_ns() + 10**10)
    code_state._own_code_state.cache_clear()
    (tmp_path / "cache").mkdir()
    calls = []

    def of_environment() -> tuple[DictConfig, bool]:
        calls.append("environment")
        return OmegaConf.create({"a": OmegaConf.create({"b": "${oc.env:PATH}"}).b}), True

    def of_places() -> tuple[DictConfig, bool]:
        calls.append("places")
        return OmegaConf.create({"a": 1}), False

    with hydra_ready(str(folder)), configs_kept_in(tmp_path / "cache"):
        for make in (of_environment, of_environment, of_places, of_places):
            composed_before(["config"], [], make)
        composed_before(["config", "+hydra.x=1"], [], lambda: (OmegaConf.create({"a": 1}), True))
    assert len(calls) == 4 and not (tmp_path / "cache" / "composed").exists()


def test_a_store_without_a_cache_gets_none(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlt, "LOADED_NS", time.time_ns() + 10**10)
    with hydra_ready(str(folder)), configs_kept_in(tmp_path / "none"):
        compose(_WORDS)
    assert not (tmp_path / "none").exists()
