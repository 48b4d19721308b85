"""GPT-2 keeps its weights transposed: a method must do there what it does to the same model of `nn.Linear` layers."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from xlt_kernels.select import select_at_random

from tests.conftest import sentences
from xlt.data.encoding import Encoder
from xlt.data.mix import LoadedSource
from xlt.engine.activation import LanguageActivation
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.methods.spiel import method as spiel
from xlt.models.loading import take_apart
from xlt.models.quantised import quantise_blocks, round_to_nf4
from xlt.models.transfer import TransferModel, block_linear_layers, is_transposed
from xlt.modules import LowRankDelta, Rescaling, SparseDelta, load_module
from xlt.tasks.causal_lm import CausalLanguageModelling

METHODS = ["lora", "ia3", "spiel_ag", "spiel_ma", "lt_sft", "bitfit", "houlsby"]


class WideCausalLm(CausalLanguageModelling):
    """Next-token prediction whose loss has the model's dtype."""

    def loss(self, model: TransferModel, batch: Mapping[str, Tensor]) -> Tensor:
        hidden, labels = self._labelled(model, batch)
        return nn.functional.cross_entropy(model.language_model_logits(hidden), labels, reduction="sum")


@pytest.fixture(scope="module")
def gpt2(encoder: Encoder) -> TransferModel:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "n_inner": 24}
    shape = GPT2Config(vocab_size=len(encoder.tokenizer), resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **sizes)
    torch.manual_seed(4)
    pretrained = GPT2LMHeadModel(shape)
    with torch.no_grad():
        for parameter in pretrained.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return take_apart(pretrained, "gpt2").double()


def with_linear_layers(model: TransferModel) -> TransferModel:
    """The same model, whose layers are `nn.Linear`: weights are (out, in)."""
    twin = copy.deepcopy(model)
    for name, layer in block_linear_layers(twin).items():
        path, _, attribute = name.removesuffix(".weight").rpartition(".")
        rows, columns = layer.weight.shape
        linear = nn.Linear(rows, columns).double()
        linear.weight = nn.Parameter(layer.weight.detach().t().clone())
        linear.bias = layer.bias
        setattr(twin.get_submodule(path), attribute, linear)
    return twin


@pytest.fixture
def train(
    make_trainer: Callable[..., Any], make_method: Callable[..., Any], encoder: Encoder, tmp_path: Path
) -> Callable[..., Any]:
    def run(name: str, model: TransferModel, **recipe: Any) -> Any:
        task = WideCausalLm(max_length=24, packing=False)
        source = LoadedSource("eng", "eng", task.features(sentences("eng", 12), encoder))
        made = make_trainer(make_method(name), "mlm", max_steps=7, learning_rate=1e-2, **recipe)
        trainer = dataclasses.replace(
            made, model=model, task=task, sources=[source], validation=[source],
            activation=LanguageActivation(model, {}, ["eng"]),
        )  # fmt: skip
        trainer.train(tmp_path / f"{name}-{is_transposed(model.backbone.h[0].mlp.c_fc)}", Silence())
        return trainer

    return run


def _outputs(model: TransferModel) -> Tensor:
    ids = torch.randint(5, 200, (3, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval().language_model_logits(model.encode(ids, torch.ones_like(ids)))


def _transposed_draw(shapes: Mapping[str, Any], count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """The entries of (out, in) weights where those drawn for the (in, out) weights are."""
    ((name, (rows, columns)),) = shapes.items()
    flat = select_at_random({name: torch.Size((columns, rows))}, count, generator)[name]
    return {name: (flat % rows * columns + flat // rows).sort().values}


@pytest.mark.parametrize("micro_batch_size", [None, 2])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_does_to_transposed_layers_what_it_does_to_linear_ones(
    name: str, micro_batch_size: int | None, gpt2: TransferModel, train: Callable[..., Any], module_header: Any,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    own, twin = copy.deepcopy(gpt2), with_linear_layers(gpt2)
    torch.testing.assert_close(_outputs(twin), _outputs(own), rtol=0, atol=1e-12)
    before = _outputs(own)
    trainer = train(name, own, micro_batch_size=micro_batch_size)
    monkeypatch.setattr(spiel, "select_at_random", _transposed_draw)
    other = train(name, twin, micro_batch_size=micro_batch_size)
    after = _outputs(own)
    assert (after - before).abs().max() > 1e-3
    # Sums in float64 in another order; Adam divides by gradients as small as 1e-8.
    torch.testing.assert_close(_outputs(twin), after, rtol=0, atol=1e-8)
    header = module_header(untied=own.is_untied)
    trainer.method.export(own, header).save(tmp_path / "own.safetensors")
    module = load_module(tmp_path / "own.safetensors")
    theirs = other.method.export(twin, header)
    fresh = copy.deepcopy(gpt2)
    module.apply(fresh)
    torch.testing.assert_close(_outputs(fresh), after, rtol=0, atol=1e-8)
    weights = block_linear_layers(gpt2)
    for tensor in weights:
        ours, of_twin = (
            _delta(module, tensor, weights[tensor].weight),
            _delta(theirs, tensor, weights[tensor].weight.t()),
        )
        torch.testing.assert_close(ours, of_twin.t(), rtol=0, atol=1e-9)


@torch.no_grad()
def _delta(module: Any, tensor: str, weight: Tensor) -> Tensor:
    """The delta of a weight, dense; zeros if the module does not change it."""
    if isinstance(module, (LowRankDelta, Rescaling)):
        form = module.deltas({}).get(tensor)
        return torch.zeros_like(weight) if form is None else form(weight)
    dense = torch.zeros(weight.shape, dtype=weight.dtype)
    if isinstance(module, SparseDelta) and tensor in module.entries:
        entries = module.entries[tensor]
        at = slice(None) if entries.indices is None else entries.indices.long()
        dense.view(-1)[at] = entries.values.to(dense)
    return dense


def test_spiel_exchanges_entries_of_transposed_layers_and_makes_no_dense_gradient(
    gpt2: TransferModel, train: Callable[..., Any]
) -> None:
    for name in ("spiel_ag", "spiel_ma"):
        trainer = train(name, copy.deepcopy(gpt2))
        sparse = trainer.method._attached
        assert sparse.indices.keys() == sparse.patterns.keys() == block_linear_layers(gpt2).keys()
        assert len(trainer.method._counts_by_step()) > 1  # some entries were grown
        assert all(p.grad is None and not p.requires_grad for p in trainer.model.backbone.parameters())


def test_four_bit_layers_for_transposed_ones_are_refused(gpt2: TransferModel) -> None:
    pytest.importorskip("bitsandbytes")
    for quantise in (quantise_blocks, round_to_nf4):
        with pytest.raises(UsageError, match=r"model\.quantise=nf4.*backbone\.h\.0\.attn\.c_attn\.weight"):
            quantise(copy.deepcopy(gpt2))
