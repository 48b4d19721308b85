"""Sizes of the models that are measured. Their weights are random: speed and memory do not depend on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import BertConfig, LlamaConfig


@dataclass(frozen=True)
class Shape:
    """Of a Transformer: tokens in the vocabulary, vector sizes, number of layers, heads a layer."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int


ENCODERS = {
    "mbert": Shape(119547, 768, 3072, 12, 12),
    "mini": Shape(40000, 384, 1536, 12, 12),
    "tiny": Shape(100, 16, 64, 2, 2),
    "small": Shape(8000, 256, 1024, 4, 4),
}
LANGUAGE_MODELS = {
    "llama2_7b": Shape(32000, 4096, 11008, 32, 32),
    "llama2_13b": Shape(32000, 5120, 13824, 40, 40),
    "tiny": Shape(100, 64, 128, 2, 2),
}


def bert_config(size: str, **settings: Any) -> BertConfig:
    """The configuration of an encoder.

    Args:
        size: a key of `ENCODERS`.
        settings: of `BertConfig`; they take precedence over the shape's.
    """
    from transformers import BertConfig

    return BertConfig(**_settings(ENCODERS[size]) | settings)


def llama_config(size: str, **settings: Any) -> LlamaConfig:
    """The configuration of a language model, without a cache for generation.

    Args:
        size: a key of `LANGUAGE_MODELS`.
        settings: of `LlamaConfig`; they take precedence over the shape's.
    """
    from transformers import LlamaConfig

    shape = LANGUAGE_MODELS[size]
    return LlamaConfig(**_settings(shape) | {"num_key_value_heads": shape.heads, "use_cache": False} | settings)


def _settings(shape: Shape) -> dict[str, Any]:
    return {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
    }


def bert_tensors(size: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a BERT encoder's tensors, as `TransferModel` names them; `size` is a key of `ENCODERS`."""
    from transformers import BertModel

    with torch.device("meta"):
        model = BertModel(bert_config(size), add_pooling_layer=False)
    return {f"backbone.{name}": tuple(parameter.shape) for name, parameter in model.named_parameters()}
