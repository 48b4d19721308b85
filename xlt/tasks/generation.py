"""Writes texts: what a decoder, or the decoder of an encoder-decoder, writes after prompts of different lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from xlt.data.encoding import Encoder
from xlt.models.loading import whole_pretrained
from xlt.models.transfer import TransferModel
from xlt.tasks.task import pad

# What greedy search needs of a model's own settings of generation. The rest, such as penalties for repetition, would
# make another text than the likeliest one.
_IDS = ("bos_token_id", "eos_token_id", "decoder_start_token_id")


@torch.no_grad()
def continuations(
    model: TransferModel, encoder: Encoder, prompts: Sequence[Sequence[int]], most_new_tokens: int
) -> list[str]:
    """Returns for each prompt the text that follows it, by greedy search, without special tokens.

    Args:
        model: a decoder or encoder-decoder in evaluation mode.
        encoder: its tokenizer.
        prompts: token ids, with the special tokens at their beginning.
        most_new_tokens: the text ends after this many tokens, or with the token that ends a text.
    """
    if model.decodes:
        ids, mask = pad(prompts, encoder.pad_id), pad([[1] * len(prompt) for prompt in prompts], 0)
        before = 1  # the token with which every text begins
    else:
        ids, mask = _padded_on_the_left(prompts, encoder.pad_id)
        before = ids.shape[1]
    pretrained: Any = whole_pretrained(model)
    given = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
    with _greedily(pretrained):
        written = pretrained.generate(**given, max_new_tokens=most_new_tokens, pad_token_id=encoder.pad_id)
    texts = encoder.tokenizer.batch_decode(written[:, before:], skip_special_tokens=True)
    return [text.strip() for text in texts]


@contextmanager
def _greedily(pretrained: Any) -> Iterator[None]:
    """Makes `generate` take the likeliest token each time, whatever the model's generation_config.json says."""
    own = pretrained.generation_config
    pretrained.generation_config = greedy_settings(own)
    try:
        yield
    finally:
        pretrained.generation_config = own


def greedy_settings(own: Any) -> Any:
    """Returns settings of greedy search, with the ids of special tokens of a model's own settings."""
    from transformers import GenerationConfig

    return GenerationConfig(do_sample=False, num_beams=1, **{name: getattr(own, name, None) for name in _IDS})


def _padded_on_the_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Returns ids and attention mask, (prompts, longest) int64 each."""
    longest = max(map(len, prompts))
    missing = [longest - len(prompt) for prompt in prompts]
    ids = [[*[pad_id] * count, *prompt] for prompt, count in zip(prompts, missing, strict=True)]
    mask = [[0] * count + [1] * len(prompt) for prompt, count in zip(prompts, missing, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)
