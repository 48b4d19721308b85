"""Whole tensors are trained in float32, also where those of the model are in half precision."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from xlt.engine.watching import Silence
from xlt.methods.dense import DenseTensors
from xlt.modules import Entries, ModuleStack, SparseDelta

NAME = "backbone.encoder.layer.0.output.dense.weight"
DENSE = ["full", "bitfit", "pretrain"]


def _loss(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model.encode(ids, torch.ones_like(ids)).float().square().mean()


def test_ten_steps_are_those_of_masters_kept_by_hand(make_model, make_task) -> None:
    """A step of two micro-batches: gradients of the rounded weights, summed in float32, update the masters."""
    model = make_model(make_task("mlm"), dtype=torch.bfloat16)
    other = copy.deepcopy(model)
    names = [name for name, _ in model.named_parameters() if name.startswith("backbone.")]
    dense = DenseTensors(model, names, keep_start=True)
    rounded = [parameter for name, parameter in other.named_parameters() if name in names]
    masters = [torch.nn.Parameter(parameter.detach().float()) for parameter in rounded]
    ours = torch.optim.AdamW(dense.trained.values(), lr=1e-4, weight_decay=0.01)
    by_hand = torch.optim.AdamW(masters, lr=1e-4, weight_decay=0.01)
    parts = [torch.randint(5, 20, (2, 7), generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    for _ in range(10):
        dense.write()
        for ids in parts:
            _loss(model, ids).backward()
        assert all(parameter.grad is None for parameter in model.parameters())
        ours.step()
        ours.zero_grad()
        for parameter, master in zip(rounded, masters, strict=True):
            parameter.data.copy_(master.detach())
        for ids in parts:
            found = torch.autograd.grad(_loss(other, ids), rounded, allow_unused=True)
            for gradient, master in zip(found, masters, strict=True):
                if gradient is not None:
                    master.grad = gradient.float() + (0 if master.grad is None else master.grad)
        by_hand.step()
        by_hand.zero_grad()
    for master, trained in zip(masters, dense.trained.values(), strict=True):
        assert torch.equal(master, trained)
    assert any((master != start).any() for master, start in zip(masters, dense.start.values(), strict=True))


@pytest.mark.parametrize("name", DENSE)
def test_steps_that_half_precision_cannot_hold_are_kept(
    name: str, make_trainer, make_method, module_header, tmp_path: Path
) -> None:
    trainer = make_trainer(make_method(name), "mlm", dtype=torch.bfloat16, max_steps=4, learning_rate=1e-6)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train(tmp_path, Silence())
    module = trainer.method.export(trainer.model, module_header())
    after = dict(trainer.model.named_parameters())
    moved = 0
    for entry, entries in module.entries.items():
        assert entries.values.dtype == torch.float32 and after[entry].dtype == torch.bfloat16
        master = before[entry].float() + entries.values.view(entries.shape)
        torch.testing.assert_close(master.bfloat16(), after[entry], rtol=0.004, atol=0)  # a sum is rounded once more
        moved += int((entries.values != 0).sum())
    tuned = sum(entries.values.numel() for entries in module.entries.values())
    lost = sum(int((after[entry] == before[entry]).sum()) for entry in module.entries)
    assert moved > 0.3 * tuned  # unused positions and words have no gradient
    assert lost > 0.7 * tuned  # without masters these would never move


def test_the_dense_phase_of_lt_sft_chooses_by_what_moved_in_float32(make_trainer, make_method, tmp_path: Path) -> None:
    recipe: dict[str, Any] = dict(max_steps=3, dense_max_steps=3, learning_rate=1e-6)
    trainer = make_trainer(make_method("lt_sft"), "tagging", dtype=torch.bfloat16, **recipe)
    trainer.train(tmp_path, Silence())
    exact = make_trainer(make_method("lt_sft"), "tagging", **recipe)
    exact.train(tmp_path / "exact", Silence())
    chosen, right = trainer.method.written_entries(), exact.method.written_entries()
    shared = sum(len(set(chosen[name].tolist()) & set(right[name].tolist())) for name in chosen if name in right)
    total = sum(len(indices) for indices in right.values())
    assert total == sum(len(indices) for indices in chosen.values())
    assert shared > 0.4 * total  # by chance 5% would be shared; bfloat16 gradients differ a little from float32's


def test_a_language_stands_over_the_rounded_masters_and_comes_off_again(
    make_trainer, make_method, make_model, make_task, module_header, tmp_path: Path
) -> None:
    shape = dict(make_model(make_task("tagging")).named_parameters())[NAME].shape
    modules = {
        code: SparseDelta(module_header(language=code), {NAME: Entries(torch.arange(50) * step, torch.ones(50), shape)})
        for code, step in (("eng", 1), ("deu", 2))
    }
    method = make_method("full")
    trainer = make_trainer(method, languages=("eng", "deu"), modules=modules, dtype=torch.bfloat16, max_steps=6)
    seen, original = [], method.loss

    def loss(model: Any, batch: Any, loss: Any) -> Any:
        rounded = method.trainable()[NAME].detach().bfloat16()
        weight = dict(model.named_parameters())[NAME].detach()
        for code, module in modules.items():
            expected = rounded.clone()
            entries = module.entries[NAME]
            expected.view(-1)[entries.indices.long()] += entries.values.bfloat16()
            if torch.equal(weight, expected):
                seen.append(code)
        return original(model, batch, loss)

    method.loss = loss
    trainer.train(tmp_path, Silence())
    assert len(seen) == 6 and set(seen) == {"eng", "deu"}
    after = dict(trainer.model.named_parameters())[NAME].detach()
    assert torch.equal(after, method.trainable()[NAME].detach().bfloat16())
    ModuleStack(trainer.model).set([])


def test_killed_and_resumed_in_half_precision_the_masters_are_the_same(
    make_trainer, make_method, records, killed, tmp_path: Path, bits
) -> None:
    def sitting(folder: Path, watcher: Any) -> Any:
        trainer = make_trainer(
            make_method("full"), dtype=torch.bfloat16, learning_rate=1e-5, dropout=0.1, save_every_seconds=0
        )
        trainer.train(folder, watcher)
        return bits({name: tensor.float() for name, tensor in trainer.method.trainable().items()})

    whole = records()
    uninterrupted = sitting(tmp_path / "whole", whole)
    for kill_at in range(1, len(whole.kept) + 1):
        folder, kept = tmp_path / f"killed-{kill_at}", []
        with pytest.raises(killed):
            sitting(folder, records(kept, kill_at))
        assert sitting(folder, records(kept)) == uninterrupted


def test_in_float32_the_models_own_tensors_are_trained(make_model, make_task) -> None:
    model = make_model(make_task("tagging"))
    dense = DenseTensors(model, [NAME], keep_start=True)
    assert dense.trained[NAME] is dict(model.named_parameters())[NAME] and not dense.has_masters
