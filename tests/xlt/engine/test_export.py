"""The rehearsal of a run's export before its first step."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xlt.engine import export
from xlt.engine.export import rehearse_export
from xlt.engine.training import Trainer
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.methods.full import Full
from xlt.modules import ModuleArtefact, ModuleHeader, SparseDelta


class FromPlugIn(Full):
    """A method as a plug-in brings it, whose `export` does what a test says."""

    name = "from_plug_in"

    def __init__(self, exports: Callable[[ModuleHeader], Any]) -> None:
        super().__init__(freeze_layer_norm=False, untie_embeddings=False)
        self._exports = exports

    def export(self, model: Any, header: ModuleHeader) -> ModuleArtefact:
        return self._exports(header)


def _raise(error: Exception) -> Any:
    raise error


def _module_with(value: Any, header: ModuleHeader) -> SparseDelta:
    module = SparseDelta(header, {}, {})
    module.tensors = {"head.x": value}
    return module


@pytest.mark.parametrize("name", ["full", "lt_sft", "lora", "ia3", "mad_x", "spiel_ag"])
def test_a_rehearsed_run_ends_in_the_same_bits(
    name: str, make_method: Any, make_trainer: Any, module_header: Any, tmp_path: Path, bits: Any
) -> None:
    ends = []
    for rehearsed in (False, True):
        trainer = make_trainer(make_method(name), dropout=0.1)
        if rehearsed:
            rehearse_export(trainer, module_header, tmp_path)
        assert not list(tmp_path.iterdir())
        trainer.train(tmp_path / "run", Silence())
        ends.append(bits(trainer.model.state_dict()))
        shutil.rmtree(tmp_path / "run")
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("exports", "said"),
    [
        (lambda header: _raise(ValueError("a factor does not broadcast")), ["a factor does not broadcast"]),
        (lambda header: _raise(UsageError("method.rank=3: too odd")), ["method.rank=3: too odd"]),
        (lambda header: _module_with("no tensor", header), ["'whole:head.x'", "str"]),
    ],
)
def test_what_a_method_cannot_export_is_one_line_before_the_first_step(
    exports: Callable[[ModuleHeader], Any], said: list[str], make_trainer: Any, module_header: Any, tmp_path: Path
) -> None:
    trainer = make_trainer(FromPlugIn(exports))
    with pytest.raises(UsageError) as error:
        rehearse_export(trainer, module_header, tmp_path)
    (line,) = error.value.lines
    assert all(part in line for part in said) and line.startswith("method"), line


def test_an_error_in_a_plug_in_s_code_stays_an_error_of_the_program(
    make_trainer: Any, module_header: Any, tmp_path: Path
) -> None:
    trainer = make_trainer(FromPlugIn(lambda header: header.no_such_field))
    with pytest.raises(AttributeError):
        rehearse_export(trainer, module_header, tmp_path)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"provenance": {"labels": ["caf\udce9"]}}, "UTF-8"),
        ({"provenance": {"depends_on": {1, 2}}}, "JSON"),
        ({"task": ""}, "task=''"),
        ({"language": "ENG"}, "language='ENG'"),
    ],
)
def test_a_header_that_no_file_can_hold_is_one_line_before_the_first_step(
    header: dict[str, Any], said: str, make_method: Any, make_trainer: Any, module_header: Any, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"^method=lora: ") as error:
        rehearse_export(make_trainer(make_method("lora")), lambda: module_header(**header), tmp_path)
    assert said in str(error.value)


def test_a_disk_without_space_for_what_the_run_surely_writes_is_one_line(
    make_method: Any, make_trainer: Any, module_header: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rehearse(name: str, free: int) -> Trainer:
        monkeypatch.setattr(export.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        trainer: Trainer = make_trainer(make_method(name))
        rehearse_export(trainer, module_header, tmp_path / "not" / "yet")
        return trainer

    model = make_trainer(make_method("full")).model
    whole = sum(parameter.numel() * 4 for parameter in model.parameters())
    rehearse("full", 2 * whole)
    rehearse("lora", whole)
    for name, enough in (("full", 2 * whole), ("pretrain", 3 * whole)):
        with pytest.raises(UsageError, match=r"^output_dir=.*not/yet: 0\.0 GB are free"):
            rehearse(name, enough - 1)
