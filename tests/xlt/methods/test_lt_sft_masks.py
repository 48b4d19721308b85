"""The choice of LT-SFT's entries beside those of another module, and of some tensors only (thesis §4.5.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt.engine.training import Trainer
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.methods.lt_sft import LtSft
from xlt.methods.random_sft import unpack_indices
from xlt.modules import Entries, ModuleHeader, SparseDelta

HEADER = ModuleHeader(kind="sparse_delta", method="lt_sft", base_model="tiny", base_hash="b1")


def _lt_sft(density: float = 0.05, among: Sequence[str] = (), overlap: float | None = None) -> LtSft:
    return LtSft(density, 0.0, False, None, None, None, among, overlap, None)


def _other(entries: dict[str, Tensor | None], shapes: dict[str, torch.Size]) -> SparseDelta:
    """A language module with some entries."""
    numbers = {name: shapes[name].numel() if own is None else own.numel() for name, own in entries.items()}
    return SparseDelta(
        HEADER, {name: Entries(own, torch.ones(numbers[name]), shapes[name]) for name, own in entries.items()}
    )


def _train_with(make_trainer, method: LtSft, other: SparseDelta | None, folder: Path, **recipe: Any) -> Trainer:
    trainer = make_trainer(method, **recipe)
    trainer.setting = dataclasses.replace(trainer.setting, other=other)
    trainer.train(folder, Silence())
    return trainer


@pytest.mark.parametrize("overlap", [0.0, 0.3, 1.0])
def test_exactly_the_overlap_is_shared_with_the_other_module(overlap: float, make_trainer, tmp_path: Path) -> None:
    """Thesis §4.5.2: K stays the same; round(overlap K) entries are the other's, and no others are."""
    free = _train_with(make_trainer, _lt_sft(), None, tmp_path / "free").method
    parameters = dict(make_trainer(_lt_sft()).model.named_parameters())
    shapes = {name: parameter.shape for name, parameter in parameters.items() if name.startswith("backbone.")}
    generator = torch.Generator().manual_seed(3)
    others: dict[str, Tensor | None] = {
        name: (torch.rand(shape.numel(), generator=generator) < 0.2).nonzero().view(-1)
        for name, shape in shapes.items()
    }
    others["backbone.encoder.layer.0.output.dense.bias"] = None
    others["lm_head.predictions.bias"] = torch.tensor([0])  # of a part that the task does not have
    shapes["lm_head.predictions.bias"] = torch.Size([4])
    trainer = _train_with(make_trainer, _lt_sft(overlap=overlap), _other(others, shapes), tmp_path / "own")
    budget = round(0.05 * trainer.model.pretrained_parameters)
    report = trainer.method.report()
    assert (report["tuned_entries"], report["shared_entries"]) == (budget, round(overlap * budget))
    shared = 0
    for name, own in unpack_indices(trainer.method.state()).items():
        other = set(range(len(own) and shapes[name].numel())) if others[name] is None else set(others[name].tolist())
        shared += len(other & set(own.tolist()))
    assert shared == round(overlap * budget)
    assert free.report()["tuned_entries"] == budget
    assert "shared_entries" not in free.report()


def test_an_overlap_that_is_not_there_is_refused_before_the_training(make_trainer, tmp_path: Path) -> None:
    shapes = {name: p.shape for name, p in make_trainer(_lt_sft()).model.named_parameters() if p.dim() == 2}
    first = next(iter(shapes))
    one = _other({first: torch.tensor([1, 5])}, shapes)
    everything = _other(dict.fromkeys(shapes), shapes)
    for overlap, other, words in ((0.5, one, "it has 2 of the entries"), (0.0, everything, "are not its own")):
        trainer = make_trainer(_lt_sft(overlap=overlap))
        trainer.setting = dataclasses.replace(trainer.setting, other=other)
        with pytest.raises(UsageError, match=f"method.overlap={overlap}: .*{words}"):
            trainer.attach_first_phase()


def test_entries_are_selected_of_the_named_tensors_only(make_trainer, tmp_path: Path) -> None:
    """Masks that are disjoint a priori; the dense phase trains everything, so the ranking is as it was."""
    masks = {}
    for name, among in (("outer", ["*embeddings*", "*.layer.0.*"]), ("inner", ["*.layer.1.*"])):
        trainer = _train_with(make_trainer, _lt_sft(density=0.01, among=among), None, tmp_path / name)
        masks[name] = {tensor for tensor, own in unpack_indices(trainer.method.state()).items() if len(own)}
        assert trainer.method.report()["tuned_entries"] == round(0.01 * trainer.model.pretrained_parameters)
        assert all(any(fnmatchcase(tensor, pattern) for pattern in among) for tensor in masks[name])
    assert masks["outer"]
    assert masks["inner"]
    assert not masks["outer"] & masks["inner"]


def test_patterns_of_no_tensor_and_too_few_entries_are_refused(make_trainer) -> None:
    model = make_trainer(_lt_sft()).model
    with pytest.raises(UsageError, match=r"method.among: \*.layer.9.\* is the name of no tensor that is tuned"):
        _lt_sft(among=["*.layer.0.*", "*.layer.9.*"]).check_model(model, adapts_language=False)
    with pytest.raises(UsageError, match=r"method.density=0.5: \d+ entries, but \d+ can be selected; .*method.among"):
        _lt_sft(density=0.5, among=["*.layer.0.attention*"]).check_model(model, adapts_language=False)


def test_a_resumed_run_keeps_its_overlap(make_trainer, records, killed, tmp_path: Path, bits) -> None:
    shapes = {name: p.shape for name, p in make_trainer(_lt_sft()).model.named_parameters() if p.dim() == 2}
    other = _other({name: torch.arange(0, shape.numel(), 3) for name, shape in shapes.items()}, shapes)
    whole = _train_with(make_trainer, _lt_sft(overlap=0.25), other, tmp_path / "whole", save_every_seconds=0)
    killed_trainer = make_trainer(_lt_sft(overlap=0.25), save_every_seconds=0)
    killed_trainer.setting = dataclasses.replace(killed_trainer.setting, other=other)
    with pytest.raises(killed):
        killed_trainer.train(tmp_path / "parts", records(kill_at=8))
    again = _train_with(make_trainer, _lt_sft(overlap=0.25), other, tmp_path / "parts", save_every_seconds=0)
    assert bits(again.model.state_dict()) == bits(whole.model.state_dict())
    assert again.method.report() == whole.method.report()
