"""Small encoders of three families with random weights, whose blocks, attention and names differ; small tokenizers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.xlt.models.small_tokenizers import ALL_KINDS
from xlt.models.loading import take_apart
from xlt.models.transfer import TransferModel

FAMILIES = ["bert", "xlm-roberta", "deberta-v2"]
OWN: dict[str, dict[str, Any]] = {
    "bert": {},
    "xlm-roberta": {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    # as mDeBERTa has it
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "position_buckets": 8,
        "max_relative_positions": -1,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "pooler_hidden_size": 16,
    },
}


def encoder_model(family: str, layers: int = 4, dropout: float = 0.1) -> TransferModel:
    from transformers import AutoConfig, AutoModelForMaskedLM

    shape = AutoConfig.for_model(
        family,
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        type_vocab_size=1,
        **OWN[family],
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        pretrained = AutoModelForMaskedLM.from_config(shape)
        for parameter in pretrained.parameters():  # no tensor like another, biases and normalisation included
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return take_apart(pretrained, family)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=ALL_KINDS)
def full(request: pytest.FixtureRequest) -> Any:
    """A tokenizer with its full vocabulary, of each kind in turn."""
    return ALL_KINDS[request.param]()
