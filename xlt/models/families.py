"""Facts about families of pre-trained models that their configs do not state."""

from __future__ import annotations

from typing import Any

TRANSLATOR = "m2m_100"
"""The family that translates, by transformers' model type: NLLB and M2M-100."""

# Families that count positions from the padding id on: 514 positions hold 512 tokens.
_OFFSET = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl")


def longest_input(config: Any) -> int:
    """The longest input of a model in tokens, special tokens included, read off its transformers config."""
    positions = int(getattr(config, "max_position_embeddings", 1 << 30))
    return positions - (int(config.pad_token_id) + 1 if config.model_type in _OFFSET else 0)
