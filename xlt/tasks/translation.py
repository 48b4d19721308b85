"""Translation by an encoder-decoder that is told both languages by a token (NLLB, M2M-100; thesis §6.3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xlt.config import UsageError, key
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
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
        rows = []
        for example, text, pair in zip(examples, texts, pairs, strict=True):
            assert example.languages is not None
            source, target = (self._language(code, encoder) for code in example.languages)
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
        starts = batch["decoder_input_ids"][:, :2]
        made = self._generate(model, batch["input_ids"], batch["attention_mask"], starts, self.beams)
        return _texts(made, self._encoder), [row["reference"] for row in rows]

    def metrics(self, scores: Sequence[tuple[list[str], list[str]]]) -> dict[str, float]:
        from sacrebleu.metrics import BLEU, CHRF

        made, references = ([text for batch in column for text in batch] for column in zip(*scores, strict=True))
        return {
            "chrf": CHRF(word_order=2).corpus_score(made, [references]).score,
            "bleu": BLEU().corpus_score(made, [references]).score,
        }

    @torch.no_grad()
    def translate(
        self, model: TransferModel, encoder: Encoder, texts: Sequence[str], languages: tuple[str, str], beams: int
    ) -> list[str]:
        source, target = (self._language(code, encoder) for code in languages)
        inputs = self._inputs([self._sequence(source, ids, encoder) for ids in encoder.lines(texts)], encoder)
        starts = torch.tensor([[_end(encoder), target]] * len(texts))
        ids, mask, starts = (t.to(model.device) for t in (inputs["input_ids"], inputs["attention_mask"], starts))
        return _texts(self._generate(model, ids, mask, starts, beams), encoder)

    def _generate(self, model: TransferModel, ids: Tensor, mask: Tensor, starts: Tensor, beams: int) -> Tensor:
        """(texts, at most `max_length`) token ids, without the two that each begins with."""
        limit = self.max_length - 1
        made = whole_pretrained(model).generate(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=starts,
            num_beams=beams,
            do_sample=False,
            max_new_tokens=limit,
        )
        return made[:, starts.shape[1] :]

    def _language(self, code: str, encoder: Encoder) -> int:
        tokenizer = encoder.tokenizer
        token = self._tokens.get(code) or language_tokens(tokenizer).get(code)
        if token is None or token not in tokenizer.get_vocab():
            missing = f"the model has no token {token}" if token is not None else "the model has no token of it"
            raise UsageError(
                f"language {code}: {missing}; give +model.new_languages.{code}=RELATIVE, or task.tokens.{code}"
            )
        return int(tokenizer.convert_tokens_to_ids(token))

    def _sequence(self, language: int, pieces: list[int], encoder: Encoder) -> list[int]:
        return [language, *pieces[: self.max_length - 2], _end(encoder)]

    @staticmethod
    def _inputs(rows: Sequence[list[int]], encoder: Encoder) -> dict[str, Tensor]:
        return {"input_ids": pad(rows, encoder.pad_id), "attention_mask": pad([[1] * len(ids) for ids in rows], 0)}


def _end(encoder: Encoder) -> int:
    """The token that ends a text, and that the decoder of this family begins with."""
    tokenizer: Any = encoder.tokenizer
    return int(tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id)


def _texts(made: Tensor, encoder: Encoder) -> list[str]:
    return [text.strip() for text in encoder.tokenizer.batch_decode(made, skip_special_tokens=True)]
