"""Extractive question answering, in which the answer is a span of the context (SQuAD v1.1, XQuAD; thesis §4.4.4)."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
from xlt.tasks.task import Annotation, Decisions, Task, Tensors

# Maximum number of special tokens around a pair (XLM-R has <s> </s></s> </s>).
_MAX_SPECIAL_TOKENS = 4


@dataclass
class QuestionAnsweringConfig:
    """Settings of extractive question answering."""

    _target_: str = "xlt.tasks.question_answering.QuestionAnswering"
    name: str = key("name of the task in tables and module files", name=True)
    max_length: int = key("maximum length of a window with question and context, in tokens", low=16)
    stride: int = key("number of context tokens from the start of a window to the start of the next", low=1)
    max_question_tokens: int = key("maximum length of a question, in tokens; longer ones lose their end", low=1)
    max_answer_tokens: int = key("maximum length of a predicted answer, in tokens", low=1)
    normalisation: str = key(
        "how answers are normalised for comparison: as in squad, or multilingual, for all punctuation",
        choices=("squad", "multilingual"),
    )

    def faults(self, prefix: str) -> Iterator[str]:
        room = self.max_length - self.max_question_tokens - _MAX_SPECIAL_TOKENS
        if self.stride > room:
            yield (
                f"{prefix}.stride={self.stride}: must be at most {prefix}.max_length - {prefix}.max_question_tokens - "
                f"{_MAX_SPECIAL_TOKENS} special tokens = {room}, or windows would leave text out"
            )


SCHEMA = QuestionAnsweringConfig


class Prediction(NamedTuple):
    """The best span of one window.

    Attributes:
        example: number of the question.
        score: sum of the logits of start and end.
        window: number of the window among those of the question.
        text: of the span.
        answers: gold answers of the question.
    """

    example: Any
    score: float
    window: int
    text: str
    answers: list[str]


class Span(NamedTuple):
    """The best span of one window.

    Attributes:
        score: sum of the logits of start and end; -inf if the window has no span.
        text: of the span.
        start: number of its first character in the whole context.
    """

    score: float
    text: str
    start: int


class SpanHead(nn.Module):
    """A head of one linear layer: (..., hidden) -> (..., 2) logits that a token is the answer's first or last."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(hidden_size, 2)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.classifier(hidden)


class QuestionAnswering(Task):
    """The task of predicting the start and the end of the answer among the tokens of the context.

    A long context is cut into overlapping windows. In training, the target of a window is the example's first answer if
    the window contains it in full, otherwise the first position. Candidates are this position and those pieces of the
    context that have visible characters; so padding has no influence. An answer that is longer than the overlap may be
    in no window in full. In a decoder, the first position has the representation of the last token.

    The predicted answer of a question is the span with the largest sum of logits over all windows. The search is exact
    (the official scripts search among the 20 best starts and ends). The text of the answer is taken from the context by
    characters.

    Metrics: f1 and exact_match of SQuAD v1.1 in percent: the best value over the answers of a question, then the mean
    over questions. The thesis does not say how it normalised answers; XQuAD uses SQuAD's script for every language.
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

    @property
    def reads(self) -> tuple[str, ...]:
        return ("text", "pair")

    def check(self, examples: Sequence[Example], source: str) -> None:
        for example in examples:
            parts = {"question": example.text, "context": example.pair, "answer": example.answers or None}
            for part, value in parts.items():
                if value is None:
                    raise UsageError(
                        f"{example.place}: there is no {part}, which task {self.name} needs; check {source}"
                    )
            context = str(example.pair)
            for answer in example.answers:
                if not answer.text.strip():
                    raise UsageError(f"{example.place}: an answer is empty; leave out questions without an answer")
                if answer.start < 0 or not context.startswith(answer.text, answer.start):
                    actual = context[max(answer.start, 0) :][: len(answer.text)]
                    raise UsageError(
                        f"{example.place}: answer {answer.text!r} is not at character {answer.start} of its context, "
                        f"where there is {actual!r}; a start must be a number of code points, counted from 0"
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
        """Yields the rows of one question. A row's `offsets` are characters of its `text`, its window's context."""
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
                "text_at": low,
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
        """Returns the mean of the cross-entropies of start and end, summed over windows."""
        start, end = self.decisions(model, batch)
        first = functional.cross_entropy(start.logits, batch["start"], reduction="sum")
        last = functional.cross_entropy(end.logits, batch["end"], reduction="sum")
        return (first + last) / 2

    def decisions(self, model: TransferModel, batch: Tensors) -> list[Decisions]:
        """Returns the decisions about the answer's start and end among the context's pieces and the first position."""
        candidates = batch["context"].bool()
        candidates[:, 0] = True
        logits = self._logits(model, batch).masked_fill(~candidates[:, None], -torch.inf)
        window = torch.arange(len(logits), device=logits.device)
        return [Decisions(position, window, weight=0.5) for position in logits.unbind(1)]

    def blank(self, example: Example) -> Example:
        letter = next((at for at, c in enumerate(str(example.pair)) if not c.isspace()), 0)
        return replace(example, answers=(Answer(str(example.pair)[letter : letter + 1], letter),))

    def predict(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> list[Span]:
        start, end = self._logits(model, batch).unbind(1)
        spans = best_spans(start, end, batch["context"].bool(), self.max_answer_tokens)
        scores, starts, ends = (part.tolist() for part in spans)
        return [
            Span(score, *_text(row, start, end, score))
            for row, score, start, end in zip(rows, scores, starts, ends, strict=True)
        ]

    def compare(self, predicted: Sequence[Span], batch: Tensors, rows: Sequence[Features]) -> list[Prediction]:
        return [
            Prediction(row["example"], span.score, row["window"], span.text, row["answers"])
            for row, span in zip(rows, predicted, strict=True)
        ]

    def annotate(self, rows: Sequence[Features], predicted: Sequence[Span]) -> Annotation:
        best = max(predicted, key=lambda span: span.score)  # of equal ones, that of the first window
        return Annotation(text=best.text, start=best.start, scores={"answer": best.score})

    def metrics(self, scores: Sequence[list[Prediction]]) -> dict[str, float]:
        best: dict[Any, Prediction] = {}
        for candidate in (prediction for batch in scores for prediction in batch):
            rival = best.get(candidate.example)
            if rival is None or (candidate.score, -candidate.window) > (rival.score, -rival.window):
                best[candidate.example] = candidate
        multilingual = self.normalisation == "multilingual"
        exact = f1 = 0.0
        for prediction in best.values():
            tokens = answer_tokens(prediction.text, multilingual)
            gold = [answer_tokens(answer, multilingual) for answer in prediction.answers]
            exact += max(tokens == answer for answer in gold)
            f1 += max(overlap_f1(tokens, answer) for answer in gold)
        count = max(len(best), 1)
        return {"f1": 100 * f1 / count, "exact_match": 100 * exact / count}

    def _logits(self, model: TransferModel, batch: Tensors) -> Tensor:
        """Computes the logits of start and end, (windows, 2, length), in float32 or wider."""
        hidden = model.encode(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))
        if model.causal:  # the first position, the target of a window without the answer, has seen nothing
            rows = torch.arange(len(hidden), device=hidden.device)
            whole = hidden[rows, model.whole_text(batch["attention_mask"])]
            hidden = torch.cat([whole[:, None], hidden[:, 1:]], 1)
        logits = self.head_of(model)(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).transpose(1, 2)


def tokens_of(answer: Answer, spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Returns the first and the last piece that shares a visible character with an answer; (-1, -1) if none does.

    Args:
        answer: its start is a character of the context.
        spans: (start, end) characters of each piece in the context.
    """
    stop = answer.start + len(answer.text)
    shared = [n for n, (start, end) in enumerate(spans) if start < end and start < stop and end > answer.start]
    return (shared[0], shared[-1]) if shared else (-1, -1)


def best_spans(start: Tensor, end: Tensor, allowed: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Finds in each window the span i..j with the largest start[i] + end[j].

    Args:
        start, end: (windows, length) logits.
        allowed: (windows, length) bool; both ends of a span must be at allowed positions.
        longest: maximum number of tokens of a span.
    Returns:
        (windows,) scores, first positions and last positions; the score is -inf if no span is possible.
    """
    start, end = (logits.masked_fill(~allowed, -torch.inf) for logits in (start, end))
    # (windows, length, longest): at [w, i, d] the end logit of position i + d
    ends = functional.pad(end, (0, longest - 1), value=-torch.inf).unfold(1, longest, 1)
    scores, at = (start[:, :, None] + ends).flatten(1).max(1)
    first = at // longest
    return scores, first, first + at % longest


def answer_tokens(text: str, multilingual: bool) -> list[str]:
    """Normalises an answer as SQuAD v1.1 does, and splits it at white space.

    The result is in lower case, without ASCII punctuation and without the words a, an and the.

    Args:
        text: of the answer.
        multilingual: whether to drop all Unicode punctuation, and to make each character of a script without spaces a
            token, as MLQA does for Chinese. (MLQA also drops each language's articles, but examples do not say their
            language.)
    """
    letters = "".join(c for c in text.lower() if not (c in string.punctuation or (multilingual and _is_punctuation(c))))
    words = re.sub(r"\b(a|an|the)\b", " ", letters)
    return (_APART.sub(" ", words) if multilingual else words).split()


def overlap_f1(predicted: list[str], gold: list[str]) -> float:
    """Computes the F1 of two bags of tokens; it is 0 if they share no token, even if both are empty (SQuAD v1.1)."""
    shared = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * shared / (len(predicted) + len(gold)) if shared else 0.0


# Scripts without spaces: Thai, Lao, Tibetan, Myanmar, Khmer, kana, Han. Their marks belong to the letter before.
_UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_MARKS = "".join(c for c in map(chr, range(0x300, 0x3100)) if unicodedata.category(c).startswith("M"))
# Matches before each letter of these scripts, and after it if another script follows.
_APART = re.compile(f"(?=[{_UNSPACED}])(?![{_MARKS}])|(?<=[{_UNSPACED}])(?![{_UNSPACED}{_MARKS}])")


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")


def _text(row: Features, start: int, end: int, score: float) -> tuple[str, int]:
    """Returns the predicted answer with all marks of its last letter, which a piece can lack, and where it begins."""
    if score == -torch.inf:
        return "", row["text_at"]
    text, offsets, at = row["text"], row["offsets"], row["context_at"]
    begins = offsets[2 * (start - at)]
    return text[begins : _with_marks(text, offsets[2 * (end - at) + 1])], row["text_at"] + begins


def _with_marks(text: str, stop: int) -> int:
    """Moves the end of a span behind the combining marks of its last letter."""
    while stop < len(text) and unicodedata.category(text[stop]).startswith("M"):
        stop += 1
    return stop
