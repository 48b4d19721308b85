"""LoRA and (IA)^3 as peft injects them, and what of that is not as peft has it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from xlt.engine.watching import Silence


@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_what_is_trained_over_a_bfloat16_base_is_float32(name: str, make_method, make_trainer, tmp_path: Path) -> None:
    """Thesis §7.4.3; steps smaller than bfloat16 can hold would be lost otherwise."""
    trainer = make_trainer(make_method(name), "mlm", dtype=torch.bfloat16, max_steps=4, learning_rate=1e-6)
    trainer.train(tmp_path, Silence())
    injected = trainer.method._injected
    assert {parameter.dtype for parameter in injected.values()} == {torch.float32}
    assert {p.dtype for n, p in trainer.model.named_parameters() if n not in injected} == {torch.bfloat16}
    assert any((parameter != parameter.bfloat16()).any() for parameter in injected.values())


def test_lora_adapts_only_the_named_layers(make_method, make_trainer, module_header) -> None:
    trainer = make_trainer(make_method("lora", "method.layers=[query,output.dense]"))
    trainer.attach_first_phase()
    factors = trainer.method.export(trainer.model, module_header(kind="low_rank")).factors
    assert {name.removesuffix(".weight").split(".layer.")[1][2:] for name in factors} == {
        "attention.self.query",
        "attention.output.dense",
        "output.dense",
    }
