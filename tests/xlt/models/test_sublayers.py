from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf

from tests import model_families
from tests.translators import translator
from xlt.models.loading import skeleton
from xlt.models.sublayers import Block, expanding_layers, find_blocks, layers_that_read_no_examples, output_embeddings
from xlt.models.transfer import TransferModel, split_pretrained

SIZE: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
BERT = Block(
    "backbone.encoder.layer.1",
    "backbone.encoder.layer.1.attention.output.dropout",
    "backbone.encoder.layer.1.output.dropout",
    "backbone.encoder.layer.1.output.LayerNorm",
)
LLAMA = Block("backbone.layers.1", "backbone.layers.1.self_attn.o_proj", "backbone.layers.1.mlp.down_proj", None)
GPT2 = Block("backbone.h.1", "backbone.h.1.attn.resid_dropout", "backbone.h.1.mlp.dropout", None)
FAMILIES: list[tuple[Callable[[], Any], Block, str]] = [
    (lambda: hf.BertForMaskedLM(hf.BertConfig(**SIZE)), BERT, "lm_head.predictions.decoder"),
    (lambda: hf.XLMRobertaForMaskedLM(hf.XLMRobertaConfig(**SIZE)), BERT, "lm_head.decoder"),
    (lambda: hf.DebertaV2ForMaskedLM(hf.DebertaV2Config(**SIZE)), BERT, "lm_head.predictions.decoder"),
    (lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SIZE)), LLAMA, "lm_head"),
    (lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**SIZE, head_dim=8, num_key_value_heads=2)), LLAMA, "lm_head"),
    (lambda: hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2)), GPT2, "lm_head"),
]


@pytest.mark.parametrize(("make", "last", "output"), FAMILIES)
def test_sub_layers_are_found_whatever_the_family(make: Callable[[], Any], last: Block, output: str) -> None:
    model = TransferModel(*split_pretrained(make()), "hash", "model").train()
    blocks = find_blocks(model)
    assert len(blocks) == 2 and blocks[1] == last
    assert output_embeddings(model) == output
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())
    model.lm_head = None
    assert output_embeddings(model) is None


def test_a_model_without_blocks_is_refused() -> None:
    backbone = torch.nn.Linear(2, 2)
    backbone.config = hf.PretrainedConfig()
    model = TransferModel(backbone, None, "hash", "model")
    with pytest.raises(ValueError, match=r"\bLinear\b.*list of blocks"):
        find_blocks(model)


def test_a_translators_blocks_are_its_encoders_and_then_its_decoders() -> None:
    model, _ = translator()
    found = find_blocks(model)
    halves = [(half, number) for half in ("encoder", "decoder") for number in (0, 1)]
    assert [block.path for block in found] == [f"backbone.{half}.layers.{number}" for half, number in halves]
    assert [block.attention.rpartition("layers.")[2] for block in found] == [
        "0.self_attn.out_proj",
        "1.self_attn.out_proj",
        "0.encoder_attn.out_proj",
        "1.encoder_attn.out_proj",
    ]
    assert all(block.feed_forward == f"{block.path}.fc2" and block.norm is None for block in found)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("BERT", []),
        ("XLM-R", []),
        ("ModernBERT", []),
        ("Llama", []),
        ("mT5", []),
        ("DeBERTa v2", ["pos_key_proj", "pos_query_proj"]),
        ("DeBERTa v3", ["query_proj", "key_proj"]),
    ],
)
def test_layers_that_read_positions_are_found_without_weights(name: str, wrong: list[str]) -> None:
    """As a plan looks for them; a model that looked into a mask could not run without weights."""
    model = skeleton(model_families.FAMILIES[name].model_config(), name, trust_remote_code=False)
    assert model.device.type == "meta"
    found = layers_that_read_no_examples(model)
    assert list(dict.fromkeys(weight.split(".")[-2] for weight in found)) == wrong


def test_expanding_layers_are_those_that_a_feed_forward_network_begins_with() -> None:

    sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 24, "num_hidden_layers": 2}
    bert = hf.BertForMaskedLM(hf.BertConfig(**sizes, num_attention_heads=2))
    llama = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, num_attention_heads=2))
    assert expanding_layers(TransferModel(*split_pretrained(bert), "bert", "b")) == {
        f"backbone.encoder.layer.{number}.intermediate.dense.weight" for number in range(2)
    }
    assert expanding_layers(TransferModel(*split_pretrained(llama), "llama", "l")) == {
        f"backbone.layers.{number}.mlp.{name}_proj.weight" for number in range(2) for name in ("gate", "up")
    }
