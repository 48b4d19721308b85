"""What every method must keep, whatever it does; the methods are found, not listed."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xlt_conf
from omegaconf import OmegaConf
from torch import Tensor

import xlt.methods
from tests.tolerance import summation_tolerance
from xlt.data.streams import stream
from xlt.engine.processes import Processes
from xlt.engine.watching import Silence
from xlt.methods.method import HEAD, Budget, ModuleReport
from xlt.models.transfer import TransferModel
from xlt.modules import Entries, ModuleStack, SparseDelta, load_module
from xlt.modules.sparse_delta import is_head, named_tensors

CONFIGS = sorted(file.stem for file in (Path(xlt_conf.__file__).parent / "method").glob("*.yaml"))
KINDS = ["tagging", "mlm"]
EMBEDDINGS = "backbone.embeddings.word_embeddings.weight"

every_method = pytest.mark.parametrize("name", CONFIGS)
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def make_trainer(make_trainer: Callable[..., Any]) -> Callable[..., Any]:
    """The fixture of this name, which leaves out language modelling for a method that trains a head alone."""

    def make(method: Any, kind: str = "tagging", **settings: Any) -> Any:
        if getattr(method, "leaves_head", False) and kind != "tagging":
            pytest.skip("it trains a head, which this task has not")
        return make_trainer(method, kind, **settings)

    return make


def test_every_schema_has_a_config() -> None:
    modules = [info.name for info in pkgutil.iter_modules(xlt.methods.__path__)]
    schemas = {name for name in modules if hasattr(importlib.import_module(f"xlt.methods.{name}"), "SCHEMA")}
    folder = Path(xlt_conf.__file__).parent / "method"
    used = {OmegaConf.load(folder / f"{name}.yaml").defaults[0].removeprefix("base_") for name in CONFIGS}
    assert {"full", "bitfit", "random_sft", "lt_sft", "spiel"} <= schemas == used


@every_method
@every_kind
def test_attach_leaves_the_output_unchanged(name: str, kind: str, make_method, make_trainer) -> None:
    trainer = make_trainer(make_method(name), kind)
    before = _output(trainer)
    phase = trainer.method.phases(Budget(4, 1, None, 1, 1e-3))[0]
    trainer.method.attach(trainer.model, phase, trainer.setting)
    trainer.method.write()
    assert torch.equal(_output(trainer), before)


@every_method
@every_kind
def test_only_what_the_module_names_moves_under_weight_decay_and_momentum(
    name: str, kind: str, make_method, make_trainer, module_header, tmp_path: Path, bits
) -> None:
    method = make_method(name, "method.l1=0.1") if "sft" in name else make_method(name)
    trainer = make_trainer(method, kind, weight_decay=0.1)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train(tmp_path, Silence())
    module = trainer.method.export(trainer.model, module_header())
    moved = 0
    tuned = sum(parameter.numel() for parameter in trainer.method.trainable().values())
    if not isinstance(module, SparseDelta):  # beside the base, which stays as it is
        now = named_tensors(trainer.model)
        base = {name: tensor for name, tensor in before.items() if name not in module.tensors}
        assert bits({name: now[name] for name in base}) == bits(base)
        parameters = {name.replace(".base_layer.", "."): p for name, p in trainer.model.named_parameters()}
        assert tuned == sum(p.numel() for n, p in parameters.items() if n not in before or n in module.tensors)
        return
    for tensor, parameter in trainer.model.named_parameters():
        # The output matrix is tied to the embeddings before, and a tensor of its own after, a language run.
        start = before[tensor] if tensor in before else before[EMBEDDINGS]
        entries = module.entries.get(tensor)
        allowed = torch.zeros(parameter.numel(), dtype=torch.bool)
        if tensor in module.tensors or (entries is not None and entries.indices is None):
            allowed[:] = True
        elif entries is not None:
            allowed[entries.indices.long()] = True
        now, was = parameter.detach().reshape(-1), start.reshape(-1)
        assert bits({"": now[~allowed]}) == bits({"": was[~allowed]}), f"{tensor} moved outside of the module"
        moved += int((now != was).sum()) if tensor not in module.tensors else 0
    assert moved > 0.5 * module.num_entries or is_head(module)
    assert tuned == module.num_entries + sum(tensor.numel() for tensor in module.tensors.values())


@every_method
@every_kind
def test_the_task_head_is_trained_and_stored_with_the_module(
    name: str, kind: str, make_method, make_trainer, module_header, tmp_path: Path
) -> None:
    trainer = make_trainer(make_method(name), kind)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items() if name.startswith("head.")}
    trainer.train(tmp_path, Silence())
    module = trainer.method.export(trainer.model, module_header())
    assert module.tensors.keys() == before.keys() == (set() if kind == "mlm" else before.keys())
    assert all(not torch.equal(module.tensors[name], tensor) for name, tensor in before.items())


@every_method
@every_kind
def test_the_report_counts_what_the_optimiser_trained_beside_the_head(
    name: str, kind: str, make_method, make_trainer, module_header, tmp_path: Path
) -> None:
    trainer = make_trainer(make_method(name), kind)
    trainer.train(tmp_path, Silence())
    trainer.method.export(trainer.model, module_header())
    report = trainer.method.report()
    assert report.keys() == ModuleReport.__required_keys__
    trained = sum(p.numel() for of, p in trainer.method.trainable().items() if not of.startswith(HEAD))
    assert type(report["tuned_entries"]) is int and report["tuned_entries"] == trained
    assert report["density"] == trained / trainer.model.pretrained_parameters


@every_method
@pytest.mark.parametrize("kind", [*KINDS, "cloze"])
def test_a_saved_module_on_a_fresh_base_reproduces_the_trained_model_and_comes_off_again(
    name: str, kind: str, make_method, make_trainer, make_model, module_header, tmp_path: Path, bits
) -> None:
    trainer = make_trainer(make_method(name), kind, learning_rate=2e-2)
    untrained = _output(trainer)
    trainer.train(tmp_path, Silence())
    trained = _output(trainer)
    assert (trained - untrained).abs().max() > 1e-3
    header = module_header(untied=trainer.model.is_untied)
    trainer.method.export(trainer.model, header).save(tmp_path / "module.safetensors")
    fresh = make_trainer(make_method(name), kind)
    if fresh.model.head is not None:
        torch.nn.init.zeros_(fresh.model.head.classifier.weight)  # the module brings its own
    before, tied = bits(fresh.model.state_dict()), not fresh.model.is_untied
    module = load_module(tmp_path / "module.safetensors")
    module.apply(fresh.model)
    # A dense difference is rounded once when it is formed and once when it is added, each weight by eps at most; and
    # a low-rank one is added to the weight or to the output. Then sums over 32 hidden and 64 feed-forward entries.
    tolerance = summation_tolerance(2 + 32 + 64, torch.float32) * float(trained.abs().max())
    torch.testing.assert_close(_output(fresh), trained, atol=tolerance, rtol=0)
    module.remove(fresh.model)
    assert bits(fresh.model.state_dict()) == before and tied == (not fresh.model.is_untied)


@every_method
@pytest.mark.parametrize(
    ("kind", "save_every_seconds"),
    [
        # The state is saved at every step, or at validations alone; the other pairs differ from these by nothing else.
        pytest.param(kind, seconds, marks=() if (kind == KINDS[0]) == (seconds == 0) else pytest.mark.slow)
        for kind in KINDS
        for seconds in (0.0, 1e9)
    ],
)
def test_killed_after_any_record_and_resumed_it_ends_in_the_same_bits(
    name: str, kind: str, save_every_seconds: float, make_method, make_trainer, records, killed, tmp_path: Path, bits
) -> None:
    def sitting(folder: Path, watcher: Any) -> dict[str, Any]:
        trainer = make_trainer(
            make_method(name, "method.l1=0.1") if "sft" in name else make_method(name),
            kind,
            dropout=0.1,
            weight_decay=0.01,
            save_every_seconds=save_every_seconds,
        )
        summary = trainer.train(folder, watcher)
        del summary["seconds"]
        return {"weights": bits(trainer.model.state_dict()), "state": bits(trainer.method.state()), **summary}

    whole = records()
    uninterrupted = sitting(tmp_path / "whole", whole)
    for kill_at in range(1, len(whole.kept) + 1):
        folder, kept = tmp_path / f"killed-{kill_at}", []
        with pytest.raises(killed):
            sitting(folder, records(kept, kill_at))
        assert sitting(folder, records(kept)) == uninterrupted, f"killed at record {kill_at}: {whole.kept[kill_at - 1]}"
        assert kept == whole.kept


@every_method
def test_killed_over_and_over_it_still_ends_in_the_same_bits(
    name: str, make_method, make_trainer, records, killed, tmp_path: Path, bits
) -> None:
    def sitting(folder: Path, watcher: Any) -> Any:
        trainer = make_trainer(make_method(name), dropout=0.1, save_every_seconds=0)
        trainer.train(folder, watcher)
        return bits(trainer.model.state_dict())

    uninterrupted = sitting(tmp_path / "whole", records())
    for _ in range(40):
        try:
            # Three records: in each sitting at least one step is done and saved before the next kill.
            assert sitting(tmp_path / "killed", records(kill_at=3)) == uninterrupted
            return
        except killed:
            pass
    raise AssertionError("the run got no further")


@every_method
def test_every_batch_of_one_epoch_sees_the_module_of_its_own_language(
    name: str, make_method, make_trainer, make_task, make_source, make_model, module_header, tmp_path: Path
) -> None:
    modules = {
        language: _language_module(language, make_model(make_task("tagging")), module_header)
        for language in ("eng", "deu")
    }
    trainer = make_trainer(
        make_method(name), languages=("eng", "deu"), modules=modules, max_steps=8, dense_max_steps=8, dropout=0.0
    )
    language_of = {tuple(row["input_ids"]): source.language for source in trainer.sources for row in source.features}
    for source in trainer.validation:
        language_of.update({tuple(row["input_ids"]): source.language for row in source.features})
    base = {language: _entries_of(trainer.model, module) for language, module in modules.items()}
    seen: list[tuple[str, bool]] = []

    def look(_: Any, arguments: Any, named: dict[str, Tensor]) -> None:
        rows = [
            tuple(row[: int(mask.sum())].tolist())
            for row, mask in zip(named["input_ids"], named["attention_mask"], strict=True)
        ]
        (language,) = {language_of[row] for row in rows}
        other = {"eng": "deu", "deu": "eng"}[language]
        # Far beyond what training moves a weight: the delta of 1.0 is in the weights of this language and no other.
        assert torch.all((_entries_of(trainer.model, modules[language]) - base[language]) > 0.5)
        assert torch.all((_entries_of(trainer.model, modules[other]) - base[other]).abs() < 0.5)
        seen.append((language, trainer.model.training))

    trainer.model.backbone.register_forward_pre_hook(look, with_kwargs=True)
    trainer.train(tmp_path, Silence())
    assert {language for language, training in seen if training} == {"eng", "deu"}
    assert {language for language, training in seen if not training} == {"eng", "deu"}
    assert ModuleStack(trainer.model).active == ()
    assert all(
        (_entries_of(trainer.model, module) - base[language]).abs().max() < 0.5 for language, module in modules.items()
    )


@every_method
@every_kind
def test_a_step_does_not_depend_on_the_size_of_its_micro_batches(
    name: str, kind: str, make_method, make_trainer, tmp_path: Path
) -> None:
    """Without a cost there is a micro-batch of each length; with it these batches are too small for a second one."""
    results = []
    for size, costs in ((None, True), (1, True), (3, True), (None, False)):
        trainer = make_trainer(make_method(name), kind, micro_batch_size=size, dtype=torch.float64)
        trainer._cost *= costs
        trainer.train(tmp_path / f"{size}-{costs}", Silence())
        results.append((trainer.method.state(), dict(trainer.model.named_parameters())))
    for state, parameters in results[1:]:
        assert all(torch.equal(chosen, results[0][0][tensor]) for tensor, chosen in state.items())
        for tensor, parameter in parameters.items():
            # Only the order of summation differs, in float64; Adam divides by gradients as small as 1e-8.
            torch.testing.assert_close(parameter, results[0][1][tensor], atol=1e-9, rtol=0, msg=tensor)


@every_method
@pytest.mark.parametrize("size", [1, pytest.param(None, marks=pytest.mark.slow)])
def test_two_processes_learn_what_one_does(
    name: str, size: int | None, make_method, make_trainer, in_two_processes, tmp_path: Path
) -> None:
    """With accumulation over micro-batches; of the last batch's one example the second process has none."""

    def train(processes: Processes) -> dict[str, Tensor]:
        recipe = {"weight_decay": 0.01, "micro_batch_size": size}
        trainer = make_trainer(make_method(name), dtype=torch.float64, processes=processes, examples=13, **recipe)
        trainer.train(tmp_path / f"of-{processes.count}", Silence())
        return {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}

    found = in_two_processes(train, tmp_path)
    alone = train(Processes())
    for rank in (0, 1):
        for tensor, parameter in alone.items():
            torch.testing.assert_close(
                found[rank][tensor], parameter, atol=1e-9, rtol=0, msg=f"{tensor} of rank {rank}"
            )


@torch.no_grad()
def _output(trainer: Any) -> Tensor:
    """Class scores, or scores of the vocabulary, for the training texts."""
    model, task = trainer.model, trainer.task
    mode = model.training
    model.eval()
    rows = [row for source in trainer.sources for row in source.features]
    batch = task.collate(rows, trainer.encoder, stream(3, "output"))
    hidden = model.encode(batch["input_ids"], batch["attention_mask"])
    model.train(mode)
    return model.language_model_logits(hidden) if model.head is None else model.head(hidden)


def _language_module(language: str, model: TransferModel, module_header: Callable[..., Any]) -> SparseDelta:
    """A module that adds 1 to some weights, other ones for each language."""
    name = "backbone.encoder.layer.0.output.dense.weight"
    shape = dict(model.named_parameters())[name].shape
    indices = torch.arange(5) * 3 + {"eng": 0, "deu": 1000}[language]
    return SparseDelta(module_header(language=language), {name: Entries(indices, torch.ones(5), shape)})


def _entries_of(model: TransferModel, module: SparseDelta) -> Tensor:
    ((name, entries),) = module.entries.items()
    assert entries.indices is not None
    return named_tensors(model)[name].detach().reshape(-1)[entries.indices.long()].clone()
