"""Instruction tuning: what the assistant says, given the conversation before it (thesis §7.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xlt.config import key
from xlt.data.encoding import Encoder
from xlt.data.examples import Example, Turn
from xlt.data.mix import Features
from xlt.errors import UsageError
from xlt.tasks.task import pad
from xlt.tasks.token_prediction import UNTAUGHT, TokenPrediction


@dataclass
class InstructConfig:
    """Instruction tuning."""

    _target_: str = "xlt.tasks.instruct.Instruct"
    max_length: int = key("longest sequence, tokens; longer ones lose their end", low=8)
    template: str = key(
        "how a conversation is written: the tokenizer's own chat template, or Tulu's", choices=("tokenizer", "tulu")
    )
    packing: bool = key("put whole conversations side by side into sequences of max_length")


SCHEMA = InstructConfig

# `tulu` as a chat template.
_TULU = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'].strip() }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


class Rendered(NamedTuple):
    """A conversation as text; `taught`: (start, end) characters of what is learned."""

    text: str
    taught: list[tuple[int, int]]


class Instruct(TokenPrediction):
    """Predicts the assistant's turns, their end included, from all that stands before; nothing else is learned.

    The loss is summed over taught tokens and divided by their number over the whole step. A conversation longer than
    `max_length` loses its end, and is left out if no taught token remains. Packed conversations see those before them
    in the sequence.

    Tulu's format (Wang et al., 2023) is `<|user|>`, the text, `<|assistant|>`, the text and the end-of-sequence token,
    each on a line of its own.
    """

    name = "instruct"
    continues_text = True

    def __init__(self, max_length: int, template: str, packing: bool) -> None:
        self.max_length, self.template, self.packing = max_length, template, packing

    def check(self, examples: Sequence[Example], source: str) -> None:
        for example in examples:
            if not example.turns:
                raise UsageError(
                    f"{example.place}: no conversation; source {source} needs fields.messages, fields.prompt and "
                    "fields.completion, or an instruction"
                )
            if not any(turn.role == "assistant" for turn in example.turns):
                raise UsageError(f"{example.place}: the assistant says nothing; there is nothing to learn")

    def features(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        rendered = [self._rendered(example, encoder.tokenizer) for example in examples]
        rows = [row for row in self._rows(rendered, encoder) if any(label != UNTAUGHT for label in row["labels"][1:])]
        return list(_packed(rows, self.max_length)) if self.packing else rows

    def collate(self, features: Sequence[Features], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            "input_ids": pad([item["input_ids"] for item in features], encoder.pad_id),
            "attention_mask": pad([[1] * len(item["input_ids"]) for item in features], 0),
            # At each position the token that follows.
            "labels": pad([[*item["labels"][1:], UNTAUGHT] for item in features], UNTAUGHT),
        }

    def chat_template(self) -> str | None:
        return _TULU if self.template == "tulu" else None

    def _rendered(self, example: Example, tokenizer: Any) -> Rendered:
        if self.template == "tulu":
            return tulu(example.turns, str(tokenizer.eos_token or ""))
        if tokenizer.chat_template is None:
            raise UsageError("task.template=tokenizer: the tokenizer has no chat template; give task.template=tulu")
        return by_chat_template(example.turns, tokenizer, example.place)

    def _rows(self, rendered: Sequence[Rendered], encoder: Encoder) -> Iterator[Features]:
        own = self.template == "tokenizer"  # a chat template writes the special tokens itself
        encoded = encoder.tokenizer(
            [one.text for one in rendered], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        for one, ids, spans in zip(rendered, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            labels = [
                token if any(start < to and end > begin for begin, to in one.taught) else UNTAUGHT
                for token, (start, end) in zip(ids, spans, strict=True)
            ]
            before = [] if own else encoder.prefix
            yield {
                "input_ids": [*before, *ids][: self.max_length],
                "labels": [*[UNTAUGHT] * len(before), *labels][: self.max_length],
            }


def tulu(turns: Sequence[Turn], end: str) -> Rendered:
    """A conversation in Tulu's format; `end`: the end-of-sequence token."""
    text, taught = "", []
    for turn in turns:
        text += f"<|{turn.role}|>\n"
        said = turn.text.strip() + (end if turn.role == "assistant" else "")
        if turn.role == "assistant":
            taught.append((len(text), len(text) + len(said)))
        text += said + "\n"
    return Rendered(text, taught)


def by_chat_template(turns: Sequence[Turn], tokenizer: Any, place: str) -> Rendered:
    """A conversation as the tokenizer's chat template writes it.

    Where an assistant's turn begins and ends is found by rendering the conversation up to it, with the prompt for an
    answer, and with it. White space after a turn is not learned.

    Raises:
        UsageError: the template refuses the conversation, or does not write it turn after turn.
    """
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]

    def render(count: int, prompt: bool) -> str:
        return tokenizer.apply_chat_template(messages[:count], tokenize=False, add_generation_prompt=prompt)

    try:
        text, taught = render(len(messages), False), []
        for number, turn in enumerate(turns):
            if turn.role == "assistant":
                before, through = render(number, True), render(number + 1, False)
                if not (through.startswith(before) and text.startswith(through)):
                    what = "the tokenizer's chat template does not write turn after turn"
                    raise UsageError(f"{place}: {what}; give task.template=tulu")
                taught.append((len(before), len(through.rstrip())))
    except Exception as error:  # templates raise whatever their authors chose
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{place}: the tokenizer's chat template refuses it: {error}") from error
    return Rendered(text, taught)


def _packed(rows: Sequence[Features], max_length: int) -> Iterator[Features]:
    """Rows side by side, in their order, as many whole ones as fit."""
    ids: list[int] = []
    labels: list[int] = []
    for row in rows:
        if ids and len(ids) + len(row["input_ids"]) > max_length:
            yield {"input_ids": ids, "labels": labels}
            ids, labels = [], []
        # The first token of a conversation is not what the one before it is taught to say.
        ids, labels = [*ids, *row["input_ids"]], [*labels, UNTAUGHT, *row["labels"][1:]]
    if ids:
        yield {"input_ids": ids, "labels": labels}
