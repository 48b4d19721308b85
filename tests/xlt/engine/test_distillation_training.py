"""Students trained by the one loop: the teacher knows the batch's language, and a killed run ends in the same bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt.data.streams import stream
from xlt.engine.activation import LanguageActivation, TeacherModules
from xlt.engine.distillation import ATTENTION, HIDDEN, PREDICTION, Distillation
from xlt.engine.training import Trainer
from xlt.engine.watching import Silence
from xlt.methods.method import Setting
from xlt.models.loading import load_pretrained
from xlt.models.student import make_student
from xlt.modules import Entries, SparseDelta

NAME = "backbone.encoder.layer.1.intermediate.dense.weight"
STAGES = {"general": ("mlm", "pretrain"), "task": ("tagging", "lt_sft")}


@pytest.fixture
def modules(module_header) -> dict[str, SparseDelta]:
    return {
        language: SparseDelta(
            module_header(language=language), {NAME: Entries(torch.arange(40) * step, torch.full((40,), 0.5), (64, 32))}
        )
        for language, step in (("eng", 1), ("deu", 3))
    }


@pytest.fixture
def make_distiller(
    make_trainer, make_method, make_task, make_source, make_model, tiny_bert, modules, module_header
) -> Callable[..., Trainer]:
    """`make_distiller("general" | "task")`: a trainer whose student has one of its teacher's two blocks."""

    def make(stage: str, **recipe: Any) -> Trainer:
        kind, method = STAGES[stage]
        task = make_task(kind)
        teacher = make_model(task, seed=3).requires_grad_(False).eval()
        for parameter in teacher.head.parameters() if teacher.head is not None else ():
            parameter.mul_(30)  # it knows its mind: the cross-entropy of an undecided teacher can hardly fall
        base = load_pretrained(str(tiny_bert))
        tokens = base.vocabulary
        student = make_student(base, [1], torch.arange(tokens), copies=True, seed=1)
        student.head = task.head(student.hidden_size)
        for parameter in student.head.parameters() if student.head is not None else ():
            torch.nn.init.constant_(parameter, 0.1)
        if stage == "task":
            student.lm_head = teacher.lm_head = None
        losses = [ATTENTION, HIDDEN] if stage == "general" else [ATTENTION, HIDDEN, PREDICTION]
        task_module = None
        if stage == "task":
            delta = Entries(torch.arange(0, 400, 7), torch.full((58,), 0.2), (64, 32))
            task_module = SparseDelta(module_header(task="pos"), {NAME: delta})
        trainer = make_trainer(
            make_method(method),
            kind,
            languages=("eng", "deu"),
            dropout=0.1,
            max_steps=6,
            evaluate_every_steps=3,
            **recipe,
        )
        return dataclasses.replace(
            trainer,
            model=student,
            task=Distillation(task, teacher, 1, torch.arange(tokens), losses),
            activation=LanguageActivation(student, {}, ["eng", "deu"], TeacherModules(teacher, modules, task_module)),
            setting=Setting(task.adapts_language, lambda *name: stream(1, "method", *name)),
        )

    return make


@pytest.mark.parametrize("stage", STAGES)
def test_killed_after_any_record_and_resumed_it_ends_in_the_same_bits(
    stage: str, make_distiller, records, killed, tmp_path: Path, bits
) -> None:
    def sitting(folder: Path, watcher: Any) -> dict[str, bytes]:
        trainer = make_distiller(stage, save_every_seconds=0)
        trainer.train(folder, watcher)
        return bits(trainer.model.state_dict())

    whole = records()
    uninterrupted = sitting(tmp_path / "whole", whole)
    for kill_at in range(1, len(whole.kept) + 1, 2):
        folder, kept = tmp_path / f"killed-{kill_at}", []
        with pytest.raises(killed):
            sitting(folder, records(kept, kill_at))
        assert sitting(folder, records(kept)) == uninterrupted
        assert kept == whole.kept


@pytest.mark.parametrize("stage", STAGES)
def test_training_brings_the_student_nearer_to_its_teacher(stage: str, make_distiller, records, tmp_path: Path) -> None:
    kept = records()
    trainer = make_distiller(stage, learning_rate=5e-3)
    trainer.recipe.max_steps = 40
    trainer.train(tmp_path, kept)
    losses = [values["loss"] for phase, _, values in kept.kept if "loss" in values and phase != "dense"]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_the_teacher_knows_the_language_of_the_batch_and_the_student_none(
    make_distiller, modules, tmp_path: Path
) -> None:
    trainer = make_distiller("general")
    assert isinstance(trainer.task, Distillation)
    teacher, student = trainer.task.teacher, trainer.model
    plain = teacher.get_parameter(NAME).clone()
    before = student.get_parameter("backbone.encoder.layer.0.intermediate.dense.weight").clone()
    seen: set[int] = set()
    encode = teacher.encode

    def spied(*inputs: Tensor) -> Tensor:
        seen.add(int((teacher.get_parameter(NAME) != plain).sum()))
        changed = (teacher.get_parameter(NAME) != plain).view(-1).nonzero().view(-1)
        assert changed.equal(torch.arange(40)) or changed.equal(torch.arange(40) * 3)
        return encode(*inputs)

    teacher.encode = spied  # type: ignore[method-assign]
    trainer.activation._teacher.enter("eng")
    assert (teacher.get_parameter(NAME) - plain).view(-1)[:40].allclose(torch.full((40,), 0.5))
    trainer.activation._teacher.enter("deu")
    assert (teacher.get_parameter(NAME) - plain).view(-1)[: 40 * 3 : 3].allclose(torch.full((40,), 0.5))
    assert torch.equal(student.get_parameter("backbone.encoder.layer.0.intermediate.dense.weight"), before)
    trainer.train(tmp_path, Silence())
    assert seen == {40}


def test_the_teacher_of_a_task_has_the_tasks_module_on_top_of_the_language(make_distiller) -> None:
    trainer = make_distiller("task")
    trainer.activation._teacher.enter("eng")
    changed = trainer.task.teacher.get_parameter(NAME).view(-1)
    plain = make_distiller("task").task.teacher
    found = plain.get_parameter(NAME).view(-1).clone()  # with the task's module alone
    found[:40] += 0.5
    torch.testing.assert_close(changed, found)
