"""Sentences with trees, and what tests of the parser share."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.models.transfer import TransferModel
from xlt.tasks.parsing import Parsing

RELATIONS = ["root", "nsubj", "obj", "amod"]


def parsing_task(max_length: int = 64, decoding: str = "greedy", relations: Sequence[str] = RELATIONS) -> Parsing:
    return Parsing(list(relations), decoding, max_length, dropout=0.0)


def example(words: Sequence[str], heads: Sequence[object], relations: Sequence[str], place: str = "file:1") -> Example:
    return Example(place, None, tuple(words), {"head": tuple(map(str, heads)), "deprel": tuple(relations)})


def some_sentences(count: int, seed: int = 0, longest: int = 6, relations: Sequence[str] = RELATIONS) -> list[Example]:
    """Random trees over random words, of one piece and of many."""
    draw = random.Random(seed)
    result = []
    for number in range(count):
        length = draw.randint(1, longest)
        order = draw.sample(range(1, length + 1), length)
        heads = {word: draw.choice(order[:at]) if at else 0 for at, word in enumerate(order)}
        words = ["".join(draw.choice("abnstqz") for _ in range(draw.randint(1, 7))) for _ in range(length)]
        labels = [draw.choice(relations) for _ in range(length)]
        result.append(example(words, [heads[word] for word in range(1, length + 1)], labels, f"file:{number}"))
    return result


def batch_of(parsing: Parsing, examples: Sequence[Example], encoder: Encoder) -> dict[str, Tensor]:
    return parsing.collate(parsing.features(examples, encoder), encoder, torch.Generator())


def random_head(head: nn.Module | None, scale: float = 0.3) -> None:
    assert head is not None
    generator = torch.Generator().manual_seed(5)
    for parameter in head.parameters():
        parameter.data.normal_(0, scale, generator=generator)


class Given(TransferModel):
    """An encoder whose output is given."""

    def __init__(self, hidden: Tensor, head: nn.Module | None) -> None:
        nn.Module.__init__(self)
        self.hidden, self.head = hidden, head

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.hidden
