"""Translation by an encoder-decoder that is told both languages by a token (NLLB, M2M-100; thesis §6.3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xlt.config import key
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.errors import UsageError
from xlt.models.language_tokens import language_tokens
from xlt.models.loading import whole_pretrained
from xlt.models.transfer import TransferModel
from xlt.tasks.task import Task, Tensors, pad
from xlt.tasks.token_prediction import UNTAUGHT


@dataclass
class TranslationTaskConfig:
    """Translation."""

    _target_: str = "xlt.tasks.translation.Translation"
    max_length: int = key("longest text on either side, tokens; longer ones lose their end", low=8)
    beams: int = key("hypotheses kept in beam search when it is evaluated; 1: greedy", low=1)
    label_smoothing: float = key("share of the probability that is spread over all tokens", low=0, high=0.9)
    metric: str = key("what selects checkpoints", choices=("chrf", "bleu"))
    tokens: dict[str, str] = key("ISO 639-3 code -> the model's language token, where it is written otherwise")


SCHEMA = TranslationTaskConfig


class Translation(Task):
    """Predicts an example's `pair` from its `text`.

    The encoder reads the source language's token, the text and the end token; the decoder begins with the end token
    and the target language's. Metrics: chrF++ (character 6-grams and word bigrams) and BLEU of `sacrebleu`, each over
    all examples together, 0 to 100.
    """

    name = "translation"
    needs_lm_head = True

    def __init__(
        self, max_length: int, beams: int, label_smoothing: float, metric: str, tokens: Mapping[str, str]
    ) -> None:
        self.max_length, self.beams, self.label_smoothing = max_length, beams, label_smoothing
        self.metric, self._tokens = metric, dict(tokens)

    def check(self, examples: Sequence[Example], source: str) -> None:
        for example in examples:
            if example.languages is None:
                raise UsageError(
                    f"{example.place}: no parallel text; source {source} needs text_language or pair_language"
                )
            lacking = "text" if not example.text else "second text" if not example.pair else None
            if lacking is not None:
                raise UsageError(f"{example.place}: no {lacking}; source {source} cannot serve task translation")

    def features(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        texts, pairs = (encoder.lines([str(getattr(e, part)) for e in examples]) for part in ("text", "pair"))
        tokens = self._language_ids({code for example in examples for code in example.languages or ()}, encoder)
        rows = []
        for example, text, pair in zip(examples, texts, pairs, strict=True):
            assert example.languages is not None
            source, target = (tokens[code] for code in example.languages)
            rows.append(
                {
                    "input_ids": self._sequence(source, text, encoder),
                    "target_ids": self._sequence(target, pair, encoder),
                    "reference": str(example.pair),
                }
            )
        return rows

    def collate(self, features: Sequence[Features], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        self._encoder = encoder  # what comes out of the model is read by the tokenizer that made what goes in
        targets = [row["target_ids"] for row in features]
        return self._inputs([row["input_ids"] for row in features], encoder) | {
            "decoder_input_ids": pad([[_end(encoder), *ids[:-1]] for ids in targets], encoder.pad_id),
            "labels": pad(targets, UNTAUGHT),
        }

    def targets(self, batch: Tensors) -> int:
        return int((batch["labels"] != UNTAUGHT).sum())

    def loss(self, model: TransferModel, batch: Tensors) -> Tensor:
        hidden = model.decode(batch["input_ids"], batch["attention_mask"], batch["decoder_input_ids"])
        taught = batch["labels"] != UNTAUGHT
        logits = model.language_model_logits(hidden[taught]).float()
        smoothing = self.label_smoothing if model.training else 0.0
        return functional.cross_entropy(logits, batch["labels"][taught], reduction="sum", label_smoothing=smoothing)

    def score(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> tuple[list[str], list[str]]:
        """Translations and references."""
        made = self._generate(model, self._encoder, batch, batch["labels"][:, 0], self.beams)
        return _texts(made, self._encoder), [row["reference"] for row in rows]

    def metrics(self, scores: Sequence[tuple[list[str], list[str]]]) -> dict[str, float]:
        from sacrebleu.metrics import BLEU, CHRF

        made, references = ([text for batch in column for text in batch] for column in zip(*scores, strict=True))
        return {
            "chrf": CHRF(word_order=2).corpus_score(made, [references]).score,
            "bleu": BLEU().corpus_score(made, [references]).score,
        }

    def check_languages(self, encoder: Encoder, languages: Sequence[str]) -> None:
        self._language_ids(languages, encoder)

    @torch.no_grad()
    def translate(
        self, model: TransferModel, encoder: Encoder, texts: Sequence[str], languages: tuple[str, str], beams: int
    ) -> list[str]:
        tokens = self._language_ids(languages, encoder)
        source, target = (tokens[code] for code in languages)
        inputs = self._inputs([self._sequence(source, ids, encoder) for ids in encoder.lines(texts)], encoder)
        batch = {name: part.to(model.device) for name, part in inputs.items()}
        into = torch.tensor([target] * len(texts), device=model.device)
        return _texts(self._generate(model, encoder, batch, into, beams), encoder)

    def _generate(self, model: TransferModel, encoder: Encoder, batch: Tensors, into: Tensor, beams: int) -> Tensor:
        """(texts, at most `max_length` - 1) token ids, without the two that each begins with.

        The language's token is forced and not given, as for one language `forced_bos_token_id` has it: beam search
        then counts it in the length that it divides by.
        """
        made = whole_pretrained(model).generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_input_ids=torch.full_like(into, _end(encoder))[:, None],
            logits_processor=[_beginning_with(into)],
            num_beams=beams,
            do_sample=False,
            max_new_tokens=self.max_length,
        )
        return made[:, 2:]

    def _language_ids(self, codes: Iterable[str], encoder: Encoder) -> dict[str, int]:
        """Code -> id of the token. A large vocabulary takes tenths of a second to be listed, so it is listed once.

        Raises:
            UsageError: a language has none.
        """
        tokenizer = encoder.tokenizer
        usual, vocabulary = language_tokens(tokenizer), tokenizer.get_vocab()
        found = {}
        for code in sorted(set(codes)):
            token = self._tokens.get(code) or usual.get(code)
            if token is None or token not in vocabulary:
                missing = f"the model has no token {token}" if token is not None else "the model has no token of it"
                raise UsageError(
                    f"language {code}: {missing}; give +model.new_languages.{code}=RELATIVE, or task.tokens.{code}"
                )
            found[code] = int(vocabulary[token])
        return found

    def _sequence(self, language: int, pieces: list[int], encoder: Encoder) -> list[int]:
        return [language, *pieces[: self.max_length - 2], _end(encoder)]

    @staticmethod
    def _inputs(rows: Sequence[list[int]], encoder: Encoder) -> dict[str, Tensor]:
        return {"input_ids": pad(rows, encoder.pad_id), "attention_mask": pad([[1] * len(ids) for ids in rows], 0)}


def _end(encoder: Encoder) -> int:
    """The token that ends a text, and that the decoder of this family begins with."""
    tokenizer: Any = encoder.tokenizer
    return int(tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id)


def _beginning_with(languages: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """For `generate`: the token that each text begins with, one a text whatever the number of beams."""

    def forced(ids: Tensor, scores: Tensor) -> Tensor:
        if ids.shape[1] > 1:
            return scores
        beams = len(scores) // len(languages)
        only = torch.full_like(scores, -math.inf)
        return only.scatter_(1, languages.repeat_interleave(beams)[:, None], 0.0)

    return forced


def _texts(made: Tensor, encoder: Encoder) -> list[str]:
    return [text.strip() for text in encoder.tokenizer.batch_decode(made, skip_special_tokens=True)]
