"""Facts about families of pre-trained models, read off their transformers configs, without loading weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

TRANSLATOR = "m2m_100"
"""The family that translates, by transformers' model type: NLLB and M2M-100."""

ENCODER, DECODER, ENCODER_DECODER = "encoder", "decoder", "encoder-decoder"
"""The architectures: each token sees all others; only those before it; or a decoder that reads an encoder's output."""

# Families that count positions from the padding id on: 514 positions hold 512 tokens.
_OFFSET = (
    *("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "xmod", "mpnet", "longformer", "data2vec-text"),
    *("ibert", "luke", "mluke", "roberta-prelayernorm"),
)
# Families without masked language-model heads in which each token sees all others.
_OTHER_ENCODERS = ("xlnet",)


def architecture(config: Any) -> str:
    """Returns `ENCODER`, `DECODER` or `ENCODER_DECODER`, read off a model's transformers config."""
    if getattr(config, "is_encoder_decoder", False):
        return ENCODER_DECODER
    if getattr(config, "use_bidirectional_attention", None) or config.model_type in _OTHER_ENCODERS:
        return ENCODER
    is_decoder = getattr(config, "is_decoder", False) or (config.model_type == "xlm" and config.causal)
    return ENCODER if has_masked_head(config) and not is_decoder else DECODER


def has_masked_head(config: Any) -> bool:
    """Returns whether transformers, or the model's own code, has a class with a masked language-model head."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    if type(config).__module__.startswith("transformers."):
        return type(config) in MODEL_FOR_MASKED_LM_MAPPING
    return "AutoModelForMaskedLM" in (getattr(config, "auto_map", None) or {})


def ties_by_checkpoint(config: Any) -> bool:
    """Returns whether the files of the weights, and not the config, tell if input and output embeddings are one tensor.

    The configs of T5 (v1.1), mT5 and UMT5 say that they are; the checkpoints have two.
    """
    return config.model_type in ("t5", "mt5", "umt5")


def family_fault(config: Any) -> str | None:
    """Returns why models of this kind cannot be used at all; None if they can."""
    parts = [name for name in ("vision_config", "audio_config") if getattr(config, name, None) is not None]
    if parts:
        return f"{config.model_type} is a model of text and {parts[0].split('_')[0]}; take a model of text alone"
    return None


def writing_fault(config: Any) -> str | None:
    """Returns why an encoder-decoder cannot write; None if it can, or is none."""
    if architecture(config) != ENCODER_DECODER or getattr(config, "decoder_start_token_id", None) is not None:
        return None
    return "config.json does not say with which token the decoder begins; add decoder_start_token_id"


def longest_input(config: Any) -> int:
    """The longest input of a model in tokens, special tokens included, read off its transformers config."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:  # distances between tokens instead of positions
        return 1 << 30
    padding = 1 if config.model_type == "mpnet" else config.pad_token_id  # MPNet's code has the number
    return positions - (int(padding) + 1 if config.model_type in _OFFSET else 0)


def finish_logits(config: Any, logits: Tensor) -> Tensor:
    """Computes what a few families compute after the last layer of the language-model head.

    Cohere multiplies the logits by a constant, Granite divides them by one, and Gemma limits their size. The first T5
    and UMT5 divide them by the square root of the hidden size.

    Args:
        config: the model's transformers config.
        logits: (..., vocabulary).
    """
    if getattr(config, "logit_scale", None) is not None:
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None) is not None:
        logits = logits / config.logits_scaling
    if getattr(config, "scale_decoder_outputs", False) or (config.model_type == "umt5" and config.tie_word_embeddings):
        logits = logits * config.d_model**-0.5
    if getattr(config, "final_logit_softcapping", None) is not None:
        logits = torch.tanh(logits / config.final_logit_softcapping) * config.final_logit_softcapping
    return logits


def built_in_languages(config: Any) -> Mapping[str, str] | None:
    """Returns ISO 639-3 code -> the model's own code, for a model with a network of its own per language (X-MOD).

    Of several scripts of a language the first counts. Other models have no such networks: None.
    """
    if getattr(config, "model_type", None) != "xmod":
        return None
    import pycountry

    codes: dict[str, str] = {}
    for own in config.languages:
        short = own.split("_")[0]
        language = pycountry.languages.get(alpha_2=short) or pycountry.languages.get(alpha_3=short)
        if language is not None:
            codes.setdefault(language.alpha_3, own)
    return codes
