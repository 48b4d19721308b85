"""Generates texts with a decoder: the continuations of prompts of different lengths, in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xlt.data.encoding import Encoder
from xlt.models.loading import whole_pretrained
from xlt.models.transfer import TransferModel


@torch.no_grad()
def continuations(
    model: TransferModel, encoder: Encoder, prompts: Sequence[Sequence[int]], most_new_tokens: int
) -> list[str]:
    """Returns for each prompt the text that follows it, by greedy search, without special tokens.

    Args:
        model: a decoder in evaluation mode.
        encoder: its tokenizer.
        prompts: token ids, with the special tokens at their beginning.
        most_new_tokens: the text ends after this many tokens, or with the token that ends a text.
    """
    ids, mask = _padded_on_the_left(prompts, encoder.pad_id)
    pretrained: Any = whole_pretrained(model)
    given = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
    written = pretrained.generate(
        **given, max_new_tokens=most_new_tokens, do_sample=False, num_beams=1, pad_token_id=encoder.pad_id
    )
    texts = encoder.tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def _padded_on_the_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Returns ids and attention mask, (prompts, longest) int64 each."""
    longest = max(map(len, prompts))
    missing = [longest - len(prompt) for prompt in prompts]
    ids = [[*[pad_id] * count, *prompt] for prompt, count in zip(prompts, missing, strict=True)]
    mask = [[0] * count + [1] * len(prompt) for prompt, count in zip(prompts, missing, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)
