"""A task as text to text: the model writes the answer to a prompt, and what it wrote is scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xlt.config import key
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.errors import UsageError
from xlt.models.families import ENCODER_DECODER
from xlt.models.transfer import TransferModel
from xlt.tasks.generation import continuations
from xlt.tasks.instruct import Instruct
from xlt.tasks.task import Tensors, pad
from xlt.tasks.token_prediction import IGNORED_LABEL
from xlt.tasks.translation import corpus_chrf
from xlt.tasks.written_scores import SCORES, Written


@dataclass
class TextToTextConfig:
    """Settings of a task as text to text."""

    _target_: str = "xlt.tasks.text_to_text.TextToText"
    name: str = key("name of the task in tables and module files", name=True)
    scored_as: str = key(
        "what written texts are scored as: entities, answer (both F1), text (exact match), label, translation",
        choices=tuple(SCORES),
    )
    max_length: int = key("maximum length of prompt and answer, in tokens; longer answers lose their end", low=8)
    max_new_tokens: int = key("longest text that is written, in tokens; prompts have the rest of max_length", low=1)
    template: str = key(
        "format of a conversation: the tokenizer's chat template, Tulu's, or plain, for an encoder-decoder",
        choices=("tokenizer", "tulu", "plain"),
    )

    def faults(self, prefix: str) -> Iterator[str]:
        if self.max_new_tokens >= self.max_length:
            yield (
                f"{prefix}.max_new_tokens={self.max_new_tokens}: must be less than {prefix}.max_length="
                f"{self.max_length}, or there is no room for a prompt"
            )


SCHEMA = TextToTextConfig


class TextToText(Instruct):
    """The task of writing the answer to a prompt. It is learned like `instruct`, and scored by what the model writes.

    In evaluation the model continues the prompt by greedy search, and the text is compared with the last turn of the
    assistant (with all answers of a question, if it has several). A prompt of more than `max_length` -
    `max_new_tokens` tokens gets no answer, which counts as a wrong one; metric `too_long` is the share of such examples
    in percent. In training, a sequence longer than `max_length` loses its end.

    With template `plain` the encoder of an encoder-decoder reads the prompt, with the tokenizer's special tokens, and
    the decoder writes the answer. In training, a longer prompt or answer than evaluation allows loses its end.
    """

    continues_text = False
    writes = True
    greater_is_better = True
    metric_range = (0.0, 100.0)

    def __init__(self, name: str, scored_as: str, max_length: int, max_new_tokens: int, template: str) -> None:
        super().__init__(max_length, template, packing=False)
        self.name, self._scored_as, self.most_new_tokens = name, scored_as, max_new_tokens
        self.metric, self._scores = SCORES[scored_as]
        self.entity_column = "ner" if scored_as == "entities" else None

    def architecture_fault(self, architecture: str) -> str | None:
        if self.template == "plain":
            for_others = "is no encoder-decoder, which the task's template plain is for; set it to tokenizer or tulu"
            return None if architecture == ENCODER_DECODER else for_others
        if architecture == ENCODER_DECODER:
            return "is an encoder-decoder, which reads prompts without marks of turns; set the task's template to plain"
        return super().architecture_fault(architecture)

    def check(self, examples: Sequence[Example], source: str) -> None:
        super().check(examples, source)
        for example in examples:
            if example.turns[-1].role != "assistant":
                raise UsageError(
                    f"{example.place}: the conversation ends with a turn of the {example.turns[-1].role}, so there is "
                    f"no text to compare with; remove it from {source}"
                )

    def features(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        """Returns a row for each example; its `prompt` is empty if the prompt is too long to be answered."""
        self.check_tokenizer(encoder)
        prompts = self._prompts(examples, encoder)
        if self.template == "plain":
            rows = self._pairs(prompts, examples, encoder)
        else:
            rows = self._rows([self._render(example, encoder.tokenizer) for example in examples], encoder)
        return [
            {
                **row,
                "example": number,
                "prompt": prompt if len(prompt) <= self._room else [],
                "right": [one.text for one in example.answers] or [example.turns[-1].text],
            }
            for number, (row, prompt, example) in enumerate(zip(rows, prompts, examples, strict=True))
        ]

    def _pairs(self, prompts: Sequence[list[int]], examples: Sequence[Example], encoder: Encoder) -> Iterator[Features]:
        """Yields what encoder and decoder learn from: the prompt, and the answer with its special tokens as labels."""
        answers = encoder.lines([example.turns[-1].text for example in examples])
        for prompt, answer in zip(prompts, answers, strict=True):
            yield {"input_ids": prompt[: self._room], "labels": encoder.wrap(answer)[: self.most_new_tokens]}

    def _prompts(self, examples: Sequence[Example], encoder: Encoder) -> list[list[int]]:
        if self.template != "plain":
            return super()._prompts(examples, encoder)
        for example in examples:
            if [turn.role for turn in example.turns[:-1]] != ["user"]:
                raise UsageError(
                    f"{example.place}: there are {len(example.turns) - 1} turns before the answer; the task's template "
                    "plain reads one, of the user"
                )
        return [encoder.wrap(ids) for ids in encoder.lines([example.turns[0].text for example in examples])]

    def inputs(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        rows = super().inputs(examples, encoder)
        for row, example in zip(rows, examples, strict=True):
            if len(row["input_ids"]) > self._room:
                raise UsageError(
                    f"{example.place}: the prompt has {len(row['input_ids'])} tokens, but task.max_length - "
                    f"task.max_new_tokens is {self._room}; shorten it, or give a greater length"
                )
        return [row | {"prompt": row["input_ids"], "right": []} for row in rows]

    def collate(self, features: Sequence[Features], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        self._encoder = encoder  # `predict` writes texts with it
        batch = super().collate(features, encoder, generator)
        if self.template == "plain":  # the label of a position is the token that the decoder writes there
            batch["labels"] = pad([row["labels"] for row in features], IGNORED_LABEL)
        return batch

    def predict(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> list[str]:
        """Returns the text that the model writes for each row; an empty one if the prompt was too long."""
        if not any(row["prompt"] for row in rows):
            return [""] * len(rows)
        # Every row stays, because a method can have its own deltas for each row of a batch.
        prompts = [row["prompt"] or [self._encoder.pad_id] for row in rows]
        texts = continuations(model, self._encoder, prompts, self.most_new_tokens)
        return [text if row["prompt"] else "" for text, row in zip(texts, rows, strict=True)]

    def compare(self, predicted: Sequence[str], batch: Tensors, rows: Sequence[Features]) -> list[tuple[Written, bool]]:
        """Returns for each row what was written with what is right, and whether the prompt was too long."""
        return [((text, list(row["right"])), not row["prompt"]) for text, row in zip(predicted, rows, strict=True)]

    def score(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> Any:
        return self.compare(self.predict(model, batch, rows), batch, rows)

    def metrics(self, scores: Sequence[Any]) -> dict[str, float]:
        compared = [one for batch in scores for one in batch]
        too_long = sum(long for _, long in compared)
        return {**self._scores([pair for pair, _ in compared]), "too_long": 100 * too_long / max(len(compared), 1)}

    def signatures(self, rows: Sequence[Features]) -> dict[str, str]:
        return {"chrf": corpus_chrf([""], [""])[1]} if self._scored_as == "translation" else {}

    def _labelled(self, model: TransferModel, batch: Tensors) -> tuple[Tensor, Tensor]:
        if not model.decodes:
            return super()._labelled(model, batch)
        labels = batch["labels"]
        is_target = labels != IGNORED_LABEL
        begin = labels.new_full((len(labels), 1), model.first_of_target)
        before = torch.cat([begin, labels[:, :-1]], 1).clamp(min=0)  # behind the labels any token will do
        return model.decode(batch["input_ids"], batch["attention_mask"], before)[is_target], labels[is_target]

    @property
    def _room(self) -> int:
        """The number of tokens that a prompt can have."""
        return self.max_length - self.most_new_tokens
