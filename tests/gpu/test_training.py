"""A run of each method on the device against the same run on the CPU."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

from xlt.engine.watching import Silence
from xlt.modules import load_module

METHODS = ["full", "bitfit", "random_sft", "lt_sft", "spiel_ag", "spiel_ma", "lora", "ia3", "pfeiffer", "houlsby"]
STEPS: dict[str, Any] = {"max_steps": 4, "dense_max_steps": 3}


@pytest.fixture
def trained(make_trainer: Any, make_method: Any, module_header: Any) -> Any:
    """`trained(method, device, folder)`: the model after a short run there, its module, and the losses of its steps."""

    def run(name: str, device: torch.device, folder: Path, watcher: Any = None, **options: Any) -> tuple[Any, Any]:
        trainer = make_trainer(make_method(name), "tagging", **{**STEPS, **options})
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
