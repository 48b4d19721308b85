"""4-bit base models: trained in 4 bits, evaluated dense, with the same weights either way."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from tests.tolerance import summation_tolerance
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.methods.sparse import SparseDeltas
from xlt.models.quantised import quantise_blocks, round_to_nf4
from xlt.models.transfer import TransferModel, block_linear_layers, split_pretrained

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

WIDE_SUMS = summation_tolerance(64 + 128, torch.float32)  # hidden and feed-forward size of the wide model
OPTIONS = ("method.update_interval=3", "method.estimation_steps=2", "method.density=0.05")


def _output(model: TransferModel) -> Tensor:
    model.eval()
    ids = torch.arange(5, 25).view(2, 10)
    with torch.no_grad():
        return model.encode(ids, torch.ones_like(ids))


def test_only_the_blocks_linear_layers_change_and_they_take_half_a_byte_an_entry(make_trainer, make_method) -> None:
    model = make_trainer(make_method("full")).model
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    shapes = {name: layer.weight.shape for name, layer in block_linear_layers(model).items()}
    hashed = model.base_hash
    quantise_blocks(model)
    assert model.base_hash == f"{hashed}-nf4"
    for name, tensor in model.named_parameters():
        if name in shapes:
            assert (tensor.dtype, tensor.numel()) == (torch.uint8, shapes[name].numel() // 2)
        else:
            assert torch.equal(tensor, before[name])
    assert block_linear_layers(model).keys() == shapes.keys()


def _wide(vocabulary: int = 300) -> TransferModel:
    """Rows of at least a block of bitsandbytes, which its own layers need on a CPU."""
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return TransferModel(*split_pretrained(BertForMaskedLM(shape)), "random", "wide")


def test_dense_and_four_bit_models_compute_the_same() -> None:
    four_bit, dense = _wide(), _wide()
    before = {name: layer.weight.detach().clone() for name, layer in block_linear_layers(dense).items()}
    quantise_blocks(four_bit)
    round_to_nf4(dense)
    wanted = _output(dense)
    torch.testing.assert_close(_output(four_bit), wanted, atol=WIDE_SUMS * float(wanted.abs().max()), rtol=0)
    assert all(not torch.equal(layer.weight, before[name]) for name, layer in block_linear_layers(dense).items())


@pytest.mark.parametrize("name", ["spiel_ag", "spiel_ma"])
def test_deltas_over_four_bits_are_those_over_the_dequantised_weights(
    name: str, make_trainer, make_method, module_header, tmp_path: Path
) -> None:
    """Thesis Eq. 7.8: DEQUANT(W) + delta, in training and in what the module is applied to."""
    trainers, modules = [], []
    for prepare in (quantise_blocks, round_to_nf4):
        trainer = make_trainer(make_method(name, *OPTIONS), max_steps=8, examples=9)
        prepare(trainer.model)
        trainer.train(tmp_path / prepare.__name__, Silence())
        trainers.append(trainer)
        modules.append(trainer.method.export(trainer.model, module_header()))
    assert modules[0].entries.keys() == modules[1].entries.keys()
    for tensor, entries in modules[0].entries.items():
        assert torch.equal(entries.indices, modules[1].entries[tensor].indices)
        # Eight steps in float32; the optimisers divide small gradients by themselves, which magnifies their rounding.
        torch.testing.assert_close(entries.values, modules[1].entries[tensor].values, atol=1e-5, rtol=1e-3)
        assert float(entries.values.abs().max()) > 1e-5
    fresh = make_trainer(make_method(name, *OPTIONS)).model
    round_to_nf4(fresh)
    modules[0].apply(fresh)
    wanted = _output(trainers[0].model)
    tolerance = summation_tolerance(32 + 64, torch.float32)  # hidden and feed-forward size of the tiny model
    torch.testing.assert_close(_output(fresh), wanted, atol=tolerance * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize("as_on_a_gpu", [False, True])
def test_what_watches_four_bit_weights_keeps_no_second_copy_of_the_deltas(
    as_on_a_gpu: bool, make_trainer, make_method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlt.methods.sparse.uses_triton", lambda _: as_on_a_gpu)
    model = make_trainer(make_method("full")).model
    quantise_blocks(model)
    name, layer = next(iter(block_linear_layers(model).items()))
    sparse = SparseDeltas(model, {name: torch.arange(0, 200, 2)})
    sparse.watch(name, torch.arange(1, 200, 2))
    with torch.no_grad():
        sparse.deltas[name].copy_(torch.arange(100.0))
    watch = sparse._watches[name]
    assert watch.probe.untyped_storage().nbytes() == 4 and sparse.patterns[name]._col is None
    expected = torch.zeros(200)
    expected[::2] = torch.arange(100.0)
    assert torch.equal(watch.probe_with_values(sparse.deltas[name]), expected)
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(1))
    layer(x).sum().backward()  # a row's gradient is the sum of x, whatever the row
    gradient = x.sum(0).repeat(layer.out_features)[:200]
    torch.testing.assert_close(sparse.deltas[name].grad, gradient[::2])
    torch.testing.assert_close(sparse.watched()[name], gradient[1::2])
    assert torch.equal(sparse.watched_indices(name), torch.arange(1, 200, 2, dtype=torch.int32))
    sparse.stop_watching()
    assert sparse.patterns[name]._col is not None


def test_lora_over_four_bits_trains_and_its_module_fits_the_dense_model(
    make_trainer, make_method, module_header, tmp_path: Path
) -> None:
    trainer = make_trainer(make_method("lora"), "mlm", max_steps=4, learning_rate=2e-2)
    trainer.model = _wide(len(trainer.encoder.tokenizer))
    quantise_blocks(trainer.model)
    trainer.train(tmp_path, Silence())
    fresh = _wide(len(trainer.encoder.tokenizer))
    round_to_nf4(fresh)
    before = _output(fresh)
    trainer.method.export(trainer.model, module_header()).apply(fresh)
    wanted = _output(trainer.model)
    torch.testing.assert_close(_output(fresh), wanted, atol=WIDE_SUMS * float(wanted.abs().max()), rtol=0)
    assert (_output(fresh) - before).abs().max() > 1e-3


def test_without_bitsandbytes_one_line_says_what_to_install(make_trainer, make_method, monkeypatch) -> None:
    real, model = builtins.__import__, make_trainer(make_method("full")).model

    def absent(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("bitsandbytes"):
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UsageError, match=r"model\.quantise=nf4: .*pip install 'xlt\[4bit\]'"):
        quantise_blocks(model)
