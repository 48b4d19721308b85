"""Source languages' modules during training: in place when used, written no more often than needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt.engine.activation import LanguageActivation
from xlt.engine.watching import Silence
from xlt.modules import Entries, ModuleStack, SparseDelta

NAME = "backbone.encoder.layer.0.output.dense.weight"


class _Counted(SparseDelta):
    """A language module that counts how often it is written into a model, and taken out."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.written = self.removed = 0

    def write_into(self, model: Any) -> Any:
        self.written += 1
        undo = super().write_into(model)

        def counted() -> None:
            self.removed += 1
            undo()

        return counted


@pytest.fixture
def modules(make_model, make_task, module_header) -> dict[str, _Counted]:
    shape = dict(make_model(make_task("tagging")).named_parameters())[NAME].shape
    return {
        language: _Counted(
            module_header(language=language), {NAME: Entries(torch.arange(50) * step, torch.ones(50), shape)}
        )
        for language, step in (("eng", 1), ("deu", 2))
    }


def _weight(model: Any) -> Tensor:
    return dict(model.named_parameters())[NAME].detach().clone()


def test_one_language_is_written_once_for_the_whole_run(make_trainer, make_method, modules, tmp_path: Path) -> None:
    """PEERS: the reference switches on every batch even when the language did not change."""
    trainer = make_trainer(make_method("lt_sft"), modules={"eng": modules["eng"]})
    trainer.train(tmp_path, Silence())
    assert (modules["eng"].written, modules["eng"].removed) == (1, 0)


def test_with_one_language_the_module_is_part_of_the_base_and_no_part_of_what_is_trained(
    make_trainer, make_method, make_model, make_task, module_header, modules, tmp_path: Path
) -> None:
    """Thesis §4.3.2: phi_T = theta' - (theta + phi_L), the language module removed again."""
    trainer = make_trainer(make_method("lt_sft", "method.density=0.5"), modules={"eng": modules["eng"]})
    trainer.train(tmp_path, Silence())
    task_module = trainer.method.export(trainer.model, module_header())
    trained = _weight(trainer.model)
    fresh = make_model(make_task("tagging"))
    stack = ModuleStack(fresh)
    stack.set([modules["eng"], task_module])
    torch.testing.assert_close(_weight(fresh), trained, atol=1e-6, rtol=0)
    assert float(task_module.entries[NAME].values.abs().max()) < 0.5


def test_with_several_languages_the_module_is_out_while_the_optimiser_steps(
    make_trainer, make_method, modules, tmp_path: Path
) -> None:
    trainer = make_trainer(
        make_method("lt_sft"), languages=("eng", "deu"), modules=modules, max_steps=8, dense_max_steps=8
    )
    after_step, steps = trainer.method.after_step, []

    def spy() -> None:
        assert ModuleStack(trainer.model).active == ()
        steps.append(1)
        after_step()

    trainer.method.after_step = spy
    trainer.train(tmp_path, Silence())
    assert len(steps) == 16
    validations = 2 * (8 // 2)
    assert sum(module.written for module in modules.values()) == 16 + 2 * validations


def test_entering_the_active_language_again_writes_nothing(make_model, make_task, modules) -> None:
    activation = LanguageActivation(make_model(make_task("tagging")), modules, ["eng", "deu"])
    for language in ("eng", "eng", "deu", "deu", "deu"):
        activation.enter(language)
    assert [module.written for module in modules.values()] == [1, 1]


def test_leaving_restores_the_base_bit_for_bit_after_any_number_of_switches(make_model, make_task, modules) -> None:
    model = make_model(make_task("tagging"))
    base = _weight(model)
    activation = LanguageActivation(model, modules, ["eng", "deu"])
    assert torch.equal(_weight(model), base)
    for language in ("eng", "deu", "deu", "eng") * 25:
        activation.enter(language)
        assert not torch.equal(_weight(model), base)
        activation.leave()
    assert torch.equal(_weight(model), base)


def test_without_modules_nothing_is_touched(make_model, make_task) -> None:
    model = make_model(make_task("tagging"))
    base = _weight(model)
    activation = LanguageActivation(model, {}, ["eng", "deu"])
    activation.enter("deu")
    assert torch.equal(_weight(model), base)
    activation.leave()
    assert ModuleStack(model).active == ()


def test_a_language_without_a_module_is_an_error(make_model, make_task, modules) -> None:
    """PEERS: in the reference a misplaced key lets one language train without its module."""
    with pytest.raises(ValueError, match="no module for source language fao"):
        LanguageActivation(make_model(make_task("tagging")), modules, ["eng", "fao"])
