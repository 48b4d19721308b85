"""Instruction tuning: predicting the assistant's turns from the conversation before them (thesis §7.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xlt.config import key
from xlt.data.encoding import Encoder
from xlt.data.examples import Example, Turn
from xlt.data.mix import Features
from xlt.errors import UsageError
from xlt.models.transfer import TransferModel
from xlt.tasks.generation import continuations
from xlt.tasks.task import Annotation, Tensors, pad
from xlt.tasks.token_prediction import IGNORED_LABEL, TokenPrediction


@dataclass
class InstructConfig:
    """Settings of instruction tuning."""

    _target_: str = "xlt.tasks.instruct.Instruct"
    max_length: int = key("maximum length of a sequence, in tokens; longer ones lose their end", low=8)
    template: str = key(
        "format of a conversation: the tokenizer's chat template or Tulu's format", choices=("tokenizer", "tulu")
    )
    packing: bool = key("whether to put several whole conversations into one sequence of max_length")


SCHEMA = InstructConfig

# `tulu` as a chat template.
_TULU = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'].strip() }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


class Rendered(NamedTuple):
    """A conversation as text.

    Attributes:
        text: of the whole conversation.
        targets: (start, end) characters of the parts that the model learns to predict.
    """

    text: str
    targets: list[tuple[int, int]]


class Instruct(TokenPrediction):
    """The task of predicting the assistant's turns, including their end, from everything before them.

    The loss is summed over the tokens of the assistant and divided by their number in the whole step. A conversation
    longer than `max_length` loses its end, and is left out if no token of the assistant remains. Packed conversations
    attend to those before them in the sequence.

    Tulu's format (Wang et al., 2023) is `<|user|>`, the text, `<|assistant|>`, and the text with the end-of-sequence
    token, each on a line of its own.
    """

    name = "instruct"
    continues_text = True
    predicts_next = True

    def __init__(self, max_length: int, template: str, packing: bool) -> None:
        self.max_length, self.template, self.packing = max_length, template, packing

    @property
    def reads(self) -> tuple[str, ...]:
        return ("turns",)

    def check(self, examples: Sequence[Example], source: str) -> None:
        for example in examples:
            if not example.turns:
                raise UsageError(
                    f"{example.place}: there is no conversation, which task instruct needs; set fields.messages, or "
                    f"fields.prompt and fields.completion, or an instruction in {source}"
                )
            if not any(turn.role == "assistant" for turn in example.turns):
                raise UsageError(
                    f"{example.place}: the conversation has no turn of the assistant, so there is nothing to learn; "
                    f"remove it from {source}"
                )

    def check_tokenizer(self, encoder: Encoder) -> None:
        if self.template == "tokenizer" and encoder.tokenizer.chat_template is None:
            raise UsageError("task.template=tokenizer: the tokenizer has no chat template; set task.template=tulu")

    def features(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        self.check_tokenizer(encoder)
        rendered = [self._render(example, encoder.tokenizer) for example in examples]
        rows = [
            row for row in self._rows(rendered, encoder) if any(label != IGNORED_LABEL for label in row["labels"][1:])
        ]
        return list(_pack(rows, self.max_length)) if self.packing else rows

    def collate(self, features: Sequence[Features], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            "input_ids": pad([item["input_ids"] for item in features], encoder.pad_id),
            "attention_mask": pad([[1] * len(item["input_ids"]) for item in features], 0),
            # The label of a position is the next token.
            "labels": pad([[*item["labels"][1:], IGNORED_LABEL] for item in features], IGNORED_LABEL),
        }

    def blank(self, example: Example) -> Example:
        turns = example.turns or (Turn("user", str(example.text)),)
        asked = turns[:-1] if turns[-1].role == "assistant" else turns
        return replace(example, turns=(*asked, Turn("assistant", ".")))

    def inputs(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        """Returns a row for each conversation: the prompt for the assistant's next turn, of which nothing is cut.

        Raises:
            UsageError: a prompt has `max_length` tokens or more.
        """
        self.check_tokenizer(encoder)
        self._encoder = encoder  # `predict` writes texts with it
        rows = []
        prompts = self._prompts([self.blank(example) for example in examples], encoder)
        for number, (example, ids) in enumerate(zip(examples, prompts, strict=True)):
            if len(ids) >= self.max_length:
                raise UsageError(
                    f"{example.place}: the prompt has {len(ids)} tokens, but task.max_length is {self.max_length}; "
                    "shorten it, or give a greater length"
                )
            rows.append({"input_ids": ids, "labels": [IGNORED_LABEL] * len(ids), "example": number})
        return rows

    def predict(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> list[str]:
        """Returns the assistant's next turns."""
        return continuations(model, self._encoder, [row["input_ids"] for row in rows], self.most_new_tokens)

    def annotate(self, rows: Sequence[Features], predicted: Sequence[str]) -> Annotation:
        return Annotation(text=predicted[0])

    def _prompts(self, examples: Sequence[Example], encoder: Encoder) -> list[list[int]]:
        """Returns the ids of all but the last turn of each conversation, with the prompt for an answer."""
        texts = [self._prompt(example.turns[:-1], encoder.tokenizer, example.place) for example in examples]
        before = [] if self.template == "tokenizer" else encoder.prefix  # a chat template writes the special tokens
        return [[*before, *ids] for ids in encoder.lines(texts)]

    def _prompt(self, turns: Sequence[Turn], tokenizer: Any, place: str) -> str:
        if self.template == "tulu":
            return tulu(turns, str(tokenizer.eos_token or "")).text + "<|assistant|>\n"
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        try:
            return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template can raise any type
            raise UsageError(f"{place}: the tokenizer's chat template refuses this conversation: {error}") from error

    def chat_template(self) -> str | None:
        return _TULU if self.template == "tulu" else None

    def _render(self, example: Example, tokenizer: Any) -> Rendered:
        if self.template == "tulu":
            return tulu(example.turns, str(tokenizer.eos_token or ""))
        return by_chat_template(example.turns, tokenizer, example.place)

    def _rows(self, rendered: Sequence[Rendered], encoder: Encoder) -> Iterator[Features]:
        has_special_tokens = self.template == "tokenizer"  # a chat template writes the special tokens itself
        encoded = encoder.tokenizer(
            [conversation.text for conversation in rendered],
            add_special_tokens=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        for conversation, ids, spans in zip(rendered, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            labels = [
                token if any(start < to and end > begin for begin, to in conversation.targets) else IGNORED_LABEL
                for token, (start, end) in zip(ids, spans, strict=True)
            ]
            before = [] if has_special_tokens else encoder.prefix
            yield {
                "input_ids": [*before, *ids][: self.max_length],
                "labels": [*[IGNORED_LABEL] * len(before), *labels][: self.max_length],
            }


def tulu(turns: Sequence[Turn], end: str) -> Rendered:
    """Writes a conversation in Tulu's format; `end` is the end-of-sequence token."""
    text, targets = "", []
    for turn in turns:
        text += f"<|{turn.role}|>\n"
        content = turn.text.strip() + (end if turn.role == "assistant" else "")
        if turn.role == "assistant":
            targets.append((len(text), len(text) + len(content)))
        text += content + "\n"
    return Rendered(text, targets)


def by_chat_template(turns: Sequence[Turn], tokenizer: Any, place: str) -> Rendered:
    """Writes a conversation with the tokenizer's chat template.

    To find where an assistant's turn begins and ends, the function also renders the conversation up to this turn, with
    the prompt for an answer, and the conversation including the turn. White space after a turn is not learned.

    Args:
        turns: of the conversation.
        tokenizer: with a chat template.
        place: file and number of the example, for messages.
    Raises:
        UsageError: the template refuses the conversation, or does not write one turn after the other.
    """
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]

    def render(count: int, prompt: bool) -> str:
        return tokenizer.apply_chat_template(messages[:count], tokenize=False, add_generation_prompt=prompt)

    try:
        text, targets = render(len(messages), False), []
        for number, turn in enumerate(turns):
            if turn.role == "assistant":
                before, including_turn = render(number, True), render(number + 1, False)
                if not (including_turn.startswith(before) and text.startswith(including_turn)):
                    fault = "the tokenizer's chat template does not write one turn after the other"
                    raise UsageError(f"{place}: {fault}; set task.template=tulu")
                targets.append((len(before), len(including_turn.rstrip())))
    except Exception as error:  # a template can raise any type
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{place}: the tokenizer's chat template refuses this conversation: {error}") from error
    return Rendered(text, targets)


def _pack(rows: Sequence[Features], max_length: int) -> Iterator[Features]:
    """Joins rows, in their order, into sequences of as many whole rows as fit."""
    ids: list[int] = []
    labels: list[int] = []
    for row in rows:
        if ids and len(ids) + len(row["input_ids"]) > max_length:
            yield {"input_ids": ids, "labels": labels}
            ids, labels = [], []
        # No conversation learns to predict the first token of the next one.
        ids, labels = [*ids, *row["input_ids"]], [*labels, IGNORED_LABEL, *row["labels"][1:]]
    if ids:
        yield {"input_ids": ids, "labels": labels}
