"""A run of each method on the device against the same run on the CPU."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import xlt_conf

from xlt.data.streams import stream
from xlt.engine.activation import LanguageActivation, TeacherModules
from xlt.engine.distillation import ATTENTION, HIDDEN, PREDICTION, Distillation
from xlt.engine.watching import Silence
from xlt.methods.method import Setting
from xlt.models.loading import load_pretrained
from xlt.models.spreading import spread_blocks
from xlt.models.student import make_student
from xlt.modules import Entries, SparseDelta, load_module

METHODS = sorted(file.stem for file in (Path(xlt_conf.__file__).parent / "method").glob("*.yaml"))
NAME = "backbone.encoder.layer.1.intermediate.dense.weight"
STEPS: dict[str, Any] = {"max_steps": 4, "dense_max_steps": 3}


@pytest.fixture
def trained(make_trainer: Any, make_method: Any, module_header: Any) -> Any:
    """`trained(method, device, folder)`: the model after a short run there, its module, and the losses of its steps."""

    def run(name: str, device: torch.device, folder: Path, watcher: Any = None, **options: Any) -> tuple[Any, Any]:
        trainer = make_trainer(make_method(name), **{**STEPS, **options})
        trainer.model.to(device)
        trainer.train(folder, watcher or Silence())
        return trainer, trainer.method.export(trainer.model, module_header())

    return run


@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_that_of_the_cpu(name: str, trained: Any, device: torch.device, tmp_path: Path) -> None:
    ours, module = trained(name, device, tmp_path / "device", learning_rate=1e-3)
    theirs, _ = trained(name, torch.device("cpu"), tmp_path / "cpu", learning_rate=1e-3)
    assert all(parameter.device.type == device.type for parameter in ours.model.parameters())
    ids = torch.randint(5, 20, (3, 9), generator=torch.Generator().manual_seed(1))
    ours.model.eval(), theirs.model.eval()
    with torch.no_grad():
        found = ours.model.encode(ids.to(device), torch.ones_like(ids).to(device)).cpu()
        expected = theirs.model.encode(ids, torch.ones_like(ids))
    # Sums in another order decide a few near ties of what is selected; a wrong step would move every output.
    torch.testing.assert_close(found, expected, atol=0.02 * float(expected.abs().max()), rtol=0)
    module.save(tmp_path / "module.safetensors")
    assert load_module(tmp_path / "module.safetensors").header.method == module.header.method


@pytest.mark.parametrize("name", ["lora", "ia3", "spiel_ag", "spiel_ma"])
def test_a_run_with_spread_blocks_is_that_of_the_cpu(
    name: str, make_trainer: Any, make_method: Any, module_header: Any, device: torch.device, tmp_path: Path
) -> None:
    outputs, ids = [], torch.randint(5, 20, (3, 9), generator=torch.Generator().manual_seed(1))
    for places in ([torch.device("cpu")], [torch.device("cpu"), device]):
        trainer = make_trainer(make_method(name), **STEPS, learning_rate=1e-3)
        spread_blocks(trainer.model, places)
        trainer.train(tmp_path / str(len(places)), Silence())
        trainer.method.export(trainer.model, module_header()).save(tmp_path / f"{len(places)}.safetensors")
        trainer.model.eval()
        with torch.no_grad():
            outputs.append(trainer.model.encode(ids, torch.ones_like(ids)))
    assert {parameter.device.type for parameter in trainer.model.parameters()} == {"cpu", device.type}
    torch.testing.assert_close(outputs[1], outputs[0], atol=0.02 * float(outputs[0].abs().max()), rtol=0)
    modules = [load_module(tmp_path / f"{count}.safetensors") for count in (1, 2)]
    fresh = [make_trainer(make_method(name)).model for _ in modules]
    spread_blocks(fresh[1], [torch.device("cpu"), device])
    for model, module in zip(fresh, modules, strict=True):
        module.apply(model.eval())
    with torch.no_grad():
        found = [model.encode(ids, torch.ones_like(ids)) for model in fresh]
    torch.testing.assert_close(found[1], outputs[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_a_module_saved_there_gives_the_trained_model_and_comes_off_again(
    name: str, trained: Any, make_model: Any, make_task: Any, device: torch.device, tmp_path: Path
) -> None:
    trainer, module = trained(name, device, tmp_path)
    module.save(tmp_path / "module.safetensors")
    fresh = make_model(make_task("tagging")).to(device)
    before = {key: tensor.clone() for key, tensor in fresh.state_dict().items() if key.startswith("backbone.")}
    ids = torch.randint(5, 20, (3, 9), generator=torch.Generator().manual_seed(1)).to(device)
    loaded = load_module(tmp_path / "module.safetensors")
    loaded.apply(fresh)
    trainer.model.eval(), fresh.eval()
    with torch.no_grad():
        found, expected = (m.encode(ids, torch.ones_like(ids)) for m in (fresh, trainer.model))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    loaded.remove(fresh)
    assert all(torch.equal(fresh.state_dict()[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize("name", ["lt_sft", "spiel_ag", "spiel_ma", "pfeiffer"])
def test_killed_and_resumed_it_ends_in_the_same_bits(
    name: str, trained: Any, records: Any, killed: Any, device: torch.device, tmp_path: Path
) -> None:
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        options: dict[str, Any] = dict(save_every_seconds=0.0, dropout=0.1)
        whole, _ = trained(name, device, tmp_path / "whole", **options)
        with contextlib.suppress(killed):
            trained(name, device, tmp_path / "killed", records(kill_at=3), **options)
        resumed, _ = trained(name, device, tmp_path / "killed", **options)
        expected = whole.model.state_dict()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in resumed.model.state_dict().items())
    finally:
        torch.use_deterministic_algorithms(deterministic)


@pytest.mark.parametrize("name", ["full", "lt_sft", "spiel_ag", "lora", "pfeiffer"])
def test_it_learns_in_half_precision(name: str, trained: Any, device: torch.device, tmp_path: Path) -> None:
    """Under autocast, and with a bfloat16 model whose deltas and masters are float32."""
    _, module = trained(name, device, tmp_path / "autocast", precision="bf16")
    narrow, other = trained(name, device, tmp_path / "bfloat16", dtype=torch.bfloat16, precision="bf16")
    for made in (module, other):
        _, tensors = made.to_tensors(None)
        assert all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point())
    assert any(parameter.dtype == torch.bfloat16 for parameter in narrow.model.parameters())


@pytest.fixture
def language_modules(module_header: Any) -> dict[str, SparseDelta]:
    return {
        language: SparseDelta(
            module_header(language=language), {NAME: Entries(torch.arange(40) * step, torch.full((40,), 0.5), (64, 32))}
        )
        for language, step in (("eng", 1), ("deu", 3))
    }


@pytest.mark.parametrize("kind", ["tagging", "mlm"])
@pytest.mark.parametrize("name", ["lt_sft", "spiel_ma", "mad_x"])
def test_two_languages_with_a_module_each(
    name: str, kind: str, trained: Any, language_modules: Any, device: torch.device, tmp_path: Path
) -> None:
    options: dict[str, Any] = dict(kind=kind, languages=("eng", "deu"), modules=language_modules, averaging="ema")
    options.update(micro_batch_size=2, activation_checkpointing=True, learning_rate=1e-3)
    ours, _ = trained(name, device, tmp_path / "device", **options)
    theirs, _ = trained(name, torch.device("cpu"), tmp_path / "cpu", **options)
    found, expected = ours.model.state_dict(), theirs.model.state_dict()
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():  # see above; a module that stayed, or was lost, would be off by 0.5
        torch.testing.assert_close(found[key].cpu(), tensor, atol=0.02, rtol=0)


def test_a_student_learns_of_its_teacher(
    make_trainer: Any,
    make_method: Any,
    make_task: Any,
    make_model: Any,
    tiny_bert: Path,
    language_modules: Any,
    device: torch.device,
    tmp_path: Path,
) -> None:
    weights = []
    for place in (device, torch.device("cpu")):
        task = make_task("tagging")
        teacher = make_model(task, seed=3).requires_grad_(False).eval().to(place)
        base = load_pretrained(str(tiny_bert))
        tokens = torch.arange(base.vocabulary)
        student = make_student(base, [1], tokens, copies=True, seed=1)
        student.head, student.lm_head = make_model(task).head, None
        student.to(place)
        trainer = dataclasses.replace(
            make_trainer(make_method("lt_sft"), languages=("eng", "deu"), **STEPS),
            model=student,
            task=Distillation(task, teacher, 1, tokens, [ATTENTION, HIDDEN, PREDICTION]),
            activation=LanguageActivation(student, {}, ["eng", "deu"], TeacherModules(teacher, language_modules, None)),
            setting=Setting(task.adapts_language, lambda *name: stream(1, "method", *name)),
        )
        trainer.train(tmp_path / place.type, Silence())
        weights.append({key: tensor.cpu() for key, tensor in student.state_dict().items()})
    for key, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][key], tensor, atol=0.02, rtol=0)
