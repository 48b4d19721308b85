"""Extractive question answering: the answer is a span of the context (SQuAD v1.1, XQuAD; thesis §4.4.4)."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from xlt.config import key
from xlt.data.encoding import Encoder, Pieces
from xlt.data.examples import Answer, Example
from xlt.data.mix import Features
from xlt.errors import UsageError
from xlt.models.transfer import TransferModel
from xlt.tasks.task import Decisions, Task, Tensors

# Special tokens around a pair, at most (XLM-R's <s> </s></s> </s>).
_SPECIAL = 4


@dataclass
class QuestionAnsweringConfig:
    """Extractive question answering."""

    _target_: str = "xlt.tasks.question_answering.QuestionAnswering"
    name: str = key("what the task is called in tables and module files")
    max_length: int = key("longest window of question and context, tokens", low=16)
    stride: int = key("tokens of context from the start of a window to that of the next", low=1)
    max_question_tokens: int = key("longer questions keep their beginning", low=1)
    max_answer_tokens: int = key("longest span that is predicted, tokens", low=1)
    normalisation: str = key(
        "before answers are compared; squad: official; multilingual: also other scripts' punctuation",
        choices=("squad", "multilingual"),
    )

    def faults(self, prefix: str) -> Iterator[str]:
        room = self.max_length - self.max_question_tokens - _SPECIAL
        if self.stride > room:
            yield (
                f"{prefix}.stride={self.stride}: must be at most {prefix}.max_length - {prefix}.max_question_tokens - "
                f"{_SPECIAL} special tokens = {room}, or windows would leave text out"
            )


SCHEMA = QuestionAnsweringConfig


class Prediction(NamedTuple):
    """The best span of one window; `example`: which question, `score`: sum of its start and end logits."""

    example: Any
    score: float
    window: int
    text: str
    answers: list[str]


class SpanHead(nn.Module):
    """One linear layer, (..., hidden) -> (..., 2): logits of being the first and the last token of the answer."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(hidden_size, 2)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.classifier(hidden)


class QuestionAnswering(Task):
    """Start and end of the answer, read off every token of the context.

    A context that is too long is cut into windows, which overlap. In training a window's answer is the first of the
    example's, if it stands there in full, and else the first position. Logits are compared over that position and the
    pieces of the context that have visible characters, nowhere else; so padding never matters. An answer that is
    longer than the overlap of windows may stand in none in full.

    A question's predicted answer is the span of largest summed logits over all its windows, exactly (the official
    scripts search among the 20 best starts and ends), cut from the text of the context between characters.

    Metrics: f1 and exact_match of SQuAD v1.1, best over the answers of a question, mean over questions, in percent.
    The thesis does not say how it normalised answers; XQuAD's own practice is SQuAD's script for every language.
    """

    metric = "f1"

    def __init__(
        self,
        name: str,
        max_length: int,
        stride: int,
        max_question_tokens: int,
        max_answer_tokens: int,
        normalisation: str,
    ) -> None:
        self.name, self.max_length, self.stride, self.normalisation = name, max_length, stride, normalisation
        self.max_question_tokens, self.max_answer_tokens = max_question_tokens, max_answer_tokens

    def check(self, examples: Sequence[Example], source: str) -> None:
        for example in examples:
            parts = {"question": example.text, "context": example.pair, "answer": example.answers or None}
            for part, value in parts.items():
                if value is None:
                    raise UsageError(f"{example.place}: no {part}; source {source} cannot serve {self.name}")
            context = str(example.pair)
            for answer in example.answers:
                if not answer.text.strip():
                    raise UsageError(f"{example.place}: an empty answer; leave out questions that have none")
                if answer.start < 0 or not context.startswith(answer.text, answer.start):
                    there = context[max(answer.start, 0) :][: len(answer.text)]
                    raise UsageError(
                        f"{example.place}: answer {answer.text!r} does not stand at character {answer.start} of its "
                        f"context, but {there!r}; starts count code points from 0"
                    )

    def features(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        questions = encoder.lines([str(example.text) for example in examples])
        contexts = list(dict.fromkeys(str(example.pair) for example in examples))  # several questions share one
        pieces = dict(zip(contexts, encoder.located(contexts), strict=True))
        return [
            row
            for number, (example, question) in enumerate(zip(examples, questions, strict=True))
            for row in self._windows(
                number, example, question[: self.max_question_tokens], pieces[str(example.pair)], encoder
            )
        ]

    def _windows(
        self, number: int, example: Example, question: list[int], context: Pieces, encoder: Encoder
    ) -> Iterator[Features]:
        """Rows of one question; `offsets` are characters of the row's `text`, which is the context of its window."""
        whole, pieces = str(example.pair), len(context.ids)
        room = encoder.pair_room(self.max_length) - len(question)
        step = min(self.stride, room)
        begins, ends = tokens_of(example.answers[0], context.spans)
        at = encoder.second_at(question)
        for window, first in enumerate(range(0, max(pieces - room, 0) + step, step)):
            last = min(first + room, pieces)
            inside = first <= begins <= ends < last
            spans = context.spans[first:last]
            low = min((start for start, _ in spans), default=0)
            high = _with_marks(whole, max((end for _, end in spans), default=0))
            yield {
                **encoder.pair_inputs(question, context.ids[first:last]),
                "example": number,
                "window": window,
                "context_at": at,
                "offsets": [character - low for span in spans for character in span],
                "start": at + begins - first if inside else 0,
                "end": at + ends - first if inside else 0,
                "text": whole[low:high],
                "answers": [answer.text for answer in example.answers],
            }

    def head(self, hidden_size: int) -> nn.Module:
        return SpanHead(hidden_size)

    def collate(self, features: Sequence[Features], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        batch = encoder.batch(features)
        context = torch.zeros_like(batch["input_ids"])
        for row, item in zip(context, features, strict=True):
            begins, ends = torch.tensor(item["offsets"], dtype=torch.int64).view(-1, 2).T
            row[item["context_at"] : item["context_at"] + len(begins)] = ends > begins
        return {
            **batch,
            "context": context,  # 1 where an answer may begin or end
            "start": torch.tensor([item["start"] for item in features]),
            "end": torch.tensor([item["end"] for item in features]),
        }

    def targets(self, batch: Tensors) -> int:
        return len(batch["start"])

    def loss(self, model: TransferModel, batch: Tensors) -> Tensor:
        """Mean of the cross-entropies of start and end, summed over windows."""
        start, end = self.decisions(model, batch)
        first = functional.cross_entropy(start.logits, batch["start"], reduction="sum")
        last = functional.cross_entropy(end.logits, batch["end"], reduction="sum")
        return (first + last) / 2

    def decisions(self, model: TransferModel, batch: Tensors) -> list[Decisions]:
        """Start and end of the answer among the pieces of the context and the first position."""
        candidates = batch["context"].bool()
        candidates[:, 0] = True
        logits = self._logits(model, batch).masked_fill(~candidates[:, None], -torch.inf)
        window = torch.arange(len(logits), device=logits.device)
        return [Decisions(position, window, weight=0.5) for position in logits.unbind(1)]

    def score(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> list[Prediction]:
        start, end = self._logits(model, batch).unbind(1)
        spans = best_spans(start, end, batch["context"].bool(), self.max_answer_tokens)
        scores, starts, ends = (part.tolist() for part in spans)
        return [
            Prediction(row["example"], score, row["window"], _text(row, start, end, score), row["answers"])
            for row, score, start, end in zip(rows, scores, starts, ends, strict=True)
        ]

    def metrics(self, scores: Sequence[list[Prediction]]) -> dict[str, float]:
        best: dict[Any, Prediction] = {}
        for found in (prediction for batch in scores for prediction in batch):
            known = best.get(found.example)
            if known is None or (found.score, -found.window) > (known.score, -known.window):
                best[found.example] = found
        multilingual = self.normalisation == "multilingual"
        exact = f1 = 0.0
        for found in best.values():
            given = answer_tokens(found.text, multilingual)
            gold = [answer_tokens(answer, multilingual) for answer in found.answers]
            exact += max(given == answer for answer in gold)
            f1 += max(overlap_f1(given, answer) for answer in gold)
        count = max(len(best), 1)
        return {"f1": 100 * f1 / count, "exact_match": 100 * exact / count}

    def _logits(self, model: TransferModel, batch: Tensors) -> Tensor:
        """(windows, 2, length), at least float32."""
        assert model.head is not None
        hidden = model.encode(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))
        logits = model.head(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).transpose(1, 2)


def tokens_of(answer: Answer, spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """First and last of the pieces that share a visible character with an answer; (-1, -1) if none does."""
    stop = answer.start + len(answer.text)
    shared = [n for n, (start, end) in enumerate(spans) if start < end and start < stop and end > answer.start]
    return (shared[0], shared[-1]) if shared else (-1, -1)


def best_spans(start: Tensor, end: Tensor, allowed: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """The span of largest start[i] + end[j] in each row, over i <= j < i + longest with both positions allowed.

    Args:
        start, end: (windows, length) logits.
        allowed: (windows, length) bool.
        longest: tokens.
    Returns:
        (windows,) scores, first and last positions; score -inf where no span is possible.
    """
    start, end = (logits.masked_fill(~allowed, -torch.inf) for logits in (start, end))
    # (windows, length, longest): at [w, i, d] the end logit of position i + d
    ends = functional.pad(end, (0, longest - 1), value=-torch.inf).unfold(1, longest, 1)
    scores, at = (start[:, :, None] + ends).flatten(1).max(1)
    first = at // longest
    return scores, first, first + at % longest


def answer_tokens(text: str, multilingual: bool) -> list[str]:
    """An answer as the metrics see it: SQuAD v1.1's normalisation, cut at white space.

    Lower case; ASCII punctuation dropped; the words a, an, the replaced by a space.

    Args:
        text: of the answer.
        multilingual: drops all of Unicode's punctuation, and makes a token of each character of a script without
            spaces, as MLQA does for Chinese (there each language has articles of its own; examples do not say theirs).
    """
    kept = "".join(c for c in text.lower() if not (c in string.punctuation or (multilingual and _is_punctuation(c))))
    words = re.sub(r"\b(a|an|the)\b", " ", kept)
    return (_APART.sub(" ", words) if multilingual else words).split()


def overlap_f1(given: list[str], gold: list[str]) -> float:
    """F1 of two bags of tokens; 0 if they share none, also if both are empty (SQuAD v1.1)."""
    shared = sum((Counter(given) & Counter(gold)).values())
    return 2 * shared / (len(given) + len(gold)) if shared else 0.0


# Thai, Lao, Tibetan, Myanmar, Khmer, kana, Han; and the marks among them, which go with the letter before.
_UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_MARKS = "".join(c for c in map(chr, range(0x300, 0x3100)) if unicodedata.category(c).startswith("M"))
# Before each such letter, and after it where another script goes on.
_APART = re.compile(f"(?=[{_UNSPACED}])(?![{_MARKS}])|(?<=[{_UNSPACED}])(?![{_UNSPACED}{_MARKS}])")


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")


def _text(row: Features, start: int, end: int, score: float) -> str:
    """The predicted answer; with all marks of its last letter, which a piece may lack (or a normaliser drops)."""
    if score == -torch.inf:
        return ""
    text, offsets, at = row["text"], row["offsets"], row["context_at"]
    return text[offsets[2 * (start - at)] : _with_marks(text, offsets[2 * (end - at) + 1])]


def _with_marks(text: str, stop: int) -> int:
    """The end of a span, moved behind the combining marks of its last letter."""
    while stop < len(text) and unicodedata.category(text[stop]).startswith("M"):
        stop += 1
    return stop
