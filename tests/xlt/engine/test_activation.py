"""Source languages' modules during training: in place when used, written no more often than needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tolerance import summation_tolerance
from xlt.engine.activation import LanguageActivation
from xlt.engine.watching import Silence
from xlt.methods.method import Method
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
    # Each weight is a difference that was rounded, added again, and rounded.
    tolerance = summation_tolerance(2, torch.float32) * float(trained.abs().max())
    torch.testing.assert_close(_weight(fresh), trained, atol=tolerance, rtol=0)
    assert float(task_module.entries[NAME].values.abs().max()) < 0.5


def _two_languages(make_trainer: Any, make_method: Any, modules: Any, method: str, **recipe: Any) -> Any:
    steps = {"max_steps": 8, "dense_max_steps": 8, **recipe}
    return make_trainer(make_method(method), languages=("eng", "deu"), modules=modules, **steps)


def test_in_a_dense_phase_the_module_is_out_while_the_optimiser_steps(
    make_trainer, make_method, modules, tmp_path: Path
) -> None:
    trainer = _two_languages(make_trainer, make_method, modules, "full")
    after_step, steps = trainer.method.after_step, []

    def spy(clipping: float) -> None:
        assert ModuleStack(trainer.model).active == ()
        steps.append(1)
        after_step(clipping)

    trainer.method.after_step = spy
    trainer.train(tmp_path, Silence())
    assert len(steps) == 8
    validations = 2 * (8 // 2)
    assert sum(module.written for module in modules.values()) == 8 + validations


def test_where_the_base_is_frozen_each_module_is_written_once_a_phase(
    make_trainer, make_method, modules, tmp_path: Path
) -> None:
    _two_languages(make_trainer, make_method, modules, "random_sft").train(tmp_path, Silence())
    assert [module.written for module in modules.values()] == [1, 1]


def test_without_copies_a_frozen_module_is_replaced_when_the_language_changes_and_not_before(
    make_model, make_task, modules, monkeypatch
) -> None:
    monkeypatch.setattr("xlt.engine.activation._MAX_COPIES", 0)
    model = make_model(make_task("tagging"))
    base = _weight(model)
    activation = LanguageActivation(model, modules, ["eng", "deu"])
    activation.begin(_Writes(dict(model.named_parameters())[NAME], torch.tensor([], dtype=torch.long)))
    before = [module.written for module in modules.values()]  # once each, to read the weights under it
    for language in ("eng", "eng", "deu", "deu", "deu", "eng"):
        activation.enter(language)
        assert ModuleStack(model).active == (modules[language],)
        activation.leave()
    assert [module.written - count for module, count in zip(modules.values(), before, strict=True)] == [2, 1]
    activation.end()
    assert ModuleStack(model).active == () and torch.equal(_weight(model), base)


@pytest.mark.parametrize("method", ["lt_sft", "random_sft"])
def test_copies_and_switching_in_place_train_the_same_weights(
    make_trainer, make_method, make_model, make_task, modules, method, tmp_path: Path, monkeypatch
) -> None:
    """Method and languages share entries: order and rounding must agree."""
    trained = {}
    for way, most in (("copies", 4), ("in place", 0)):
        monkeypatch.setattr("xlt.engine.activation._MAX_COPIES", most)
        trainer = _two_languages(make_trainer, make_method, modules, method)
        losses: list[float] = []
        forward_backward = trainer._forward_backward

        def noted(*arguments: Any, forward_backward: Any = forward_backward, losses: Any = losses) -> Any:
            found = forward_backward(*arguments)
            losses.append(found[0])
            return found

        trainer._forward_backward = noted
        trainer.train(tmp_path / way, Silence())
        assert (trainer.activation._copies, ModuleStack(trainer.model).active) == ({}, ())
        trained[way] = (losses, {name: p.detach().clone() for name, p in trainer.model.named_parameters()})
    assert trained["copies"][0] == trained["in place"][0]
    for name, weight in trained["copies"][1].items():
        assert torch.equal(weight, trained["in place"][1][name]), name
    written = trained["copies"][1][NAME]
    base = _weight(make_model(make_task("tagging")))
    assert not torch.equal(written, base)  # the method wrote into the tensor that the languages change


@pytest.mark.parametrize("most", [0, 4])
def test_the_weights_are_base_and_language_and_method(make_model, make_task, modules, most, monkeypatch) -> None:
    """By hand: base 0; the method writes 5 at entries 0 and 3; English adds 1 at 0..49, German at 0, 2, 4, ..."""
    monkeypatch.setattr("xlt.engine.activation._MAX_COPIES", most)
    model = make_model(make_task("tagging"))
    weight = dict(model.named_parameters())[NAME]
    weight.data.zero_()
    method = _Writes(weight, torch.tensor([0, 3]))
    activation = LanguageActivation(model, modules, ["eng", "deu"])
    activation.begin(method)
    flat = lambda: weight.detach().view(-1)[:5].tolist()  # noqa: E731
    for value in (5.0, 7.0):
        method.value = value
        for _ in range(2):
            activation.enter("eng")
            assert flat() == [value + 1, 1.0, 1.0, value + 1, 1.0]
            activation.leave()
            activation.enter("deu")
            assert flat() == [value + 1, 0.0, 1.0, value, 1.0]
            activation.leave()
    activation.end()
    assert flat() == [7.0, 0.0, 0.0, 7.0, 0.0]


class _Writes(Method):
    """A method that sets two entries of a frozen tensor."""

    name = "writes"
    value = 0.0

    def __init__(self, weight: Any, indices: Tensor) -> None:
        self.weight, self.indices = weight, indices

    def attach(self, model: Any, phase: Any, setting: Any) -> None: ...

    def trainable(self) -> dict[str, Any]:
        return {}

    def write(self, base: Mapping[str, Tensor] | None = None) -> None:
        under = 0 if base is None else base[NAME]
        self.weight.data.view(-1)[self.indices] = self.value + under

    def written_entries(self) -> dict[str, Tensor]:
        return {NAME: self.indices}

    def export(self, model: Any, header: Any) -> Any: ...

    def report(self) -> Any: ...


def test_a_method_whose_entries_may_change_switches_in_place(make_model, make_task, modules) -> None:
    model = make_model(make_task("tagging"))
    method = _Writes(dict(model.named_parameters())[NAME], torch.tensor([0]))
    method.written_entries = lambda: None  # type: ignore[method-assign]
    activation = LanguageActivation(model, modules, ["eng", "deu"])
    activation.begin(method)
    activation.enter("eng")
    assert ModuleStack(model).active == (modules["eng"],)
    activation.leave()
    assert ModuleStack(model).active == ()


@pytest.mark.parametrize("most", [0, 4])
def test_leaving_restores_the_base_bit_for_bit_after_any_number_of_switches(
    make_model, make_task, modules, most, monkeypatch
) -> None:
    monkeypatch.setattr("xlt.engine.activation._MAX_COPIES", most)
    model = make_model(make_task("tagging"))
    base = _weight(model)
    activation = LanguageActivation(model, modules, ["eng", "deu"])
    method = _Writes(dict(model.named_parameters())[NAME], torch.tensor([], dtype=torch.long))
    activation.begin(method)
    for language in ("eng", "deu", "deu", "eng") * 25:
        activation.enter(language)
        assert not torch.equal(_weight(model), base)
        activation.leave()
    activation.end()
    assert torch.equal(_weight(model), base)


def test_without_modules_nothing_is_touched(make_model, make_task) -> None:
    model = make_model(make_task("tagging"))
    base = _weight(model)
    activation = LanguageActivation(model, {}, ["eng", "deu"])
    activation.begin(_Writes(dict(model.named_parameters())[NAME], torch.tensor([], dtype=torch.long)))
    activation.enter("deu")
    assert torch.equal(_weight(model), base)
    activation.leave()
    assert ModuleStack(model).active == ()


def test_a_language_without_a_module_is_an_error(make_model, make_task, modules) -> None:
    """PEERS: in the reference a misplaced key lets one language train without its module."""
    with pytest.raises(ValueError, match=r"language_modules: .*fao"):
        LanguageActivation(make_model(make_task("tagging")), modules, ["eng", "fao"])
