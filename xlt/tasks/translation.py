"""Translation by an encoder-decoder that reads each language from a token (NLLB, M2M-100; thesis §6.3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from xlt.config import key
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.errors import UsageError
from xlt.languages import key_faults, near_languages
from xlt.models.families import ENCODER_DECODER
from xlt.models.language_tokens import language_tokens
from xlt.models.loading import whole_pretrained
from xlt.models.transfer import TransferModel
from xlt.tasks.bleu_tokenizers import TOKENIZERS, absence, corpus_bleu
from xlt.tasks.task import Annotation, Task, Tensors, pad
from xlt.tasks.token_prediction import IGNORED_LABEL, summed_loss

Translated = tuple[list[str], list[str], list[str]]
"""Translations, references and target languages, one of each for an example."""


@dataclass
class TranslationTaskConfig:
    """Settings of translation."""

    _target_: str = "xlt.tasks.translation.Translation"
    max_length: int = key("maximum length of a text on either side, in tokens; longer ones lose their end", low=8)
    beams: int = key("number of hypotheses in beam search in evaluation; 1: greedy search", low=1)
    label_smoothing: float = key("share of the probability that is spread over all tokens", low=0, high=0.9)
    metric: str = key("the metric that selects checkpoints: chrF++ or BLEU", choices=("chrf", "bleu"))
    bleu_tokenizer: str = key("sacrebleu's tokenizer of BLEU; auto: by the target language", choices=TOKENIZERS)
    tokens: dict[str, str] = key("language -> the model's token of it, where the code does not give it")

    def faults(self, prefix: str) -> Iterator[str]:
        yield from key_faults(f"{prefix}.tokens", self.tokens)
        if self.bleu_tokenizer in TOKENIZERS and (fault := absence(self.bleu_tokenizer)) is not None:
            yield f"{prefix}.bleu_tokenizer={self.bleu_tokenizer}: {fault}"


SCHEMA = TranslationTaskConfig


class Translation(Task):
    """The task of predicting an example's `pair`, the translation, from its `text`.

    The encoder reads the source language's token, the text and the end token; the decoder begins with the end token
    and the target language's token. Metrics: chrF++ (character 6-grams and word bigrams) and BLEU of `sacrebleu`, both
    over all examples together, from 0 to 100. BLEU counts words by a tokenizer that suits the target language.
    """

    name = "translation"
    needs_lm_head = writes = True

    def __init__(
        self,
        max_length: int,
        beams: int,
        label_smoothing: float,
        metric: str,
        bleu_tokenizer: str,
        tokens: Mapping[str, str],
    ) -> None:
        self.max_length, self.beams, self.label_smoothing = max_length, beams, label_smoothing
        self.metric, self._bleu_tokenizer, self._tokens = metric, bleu_tokenizer, dict(tokens)

    def architecture_fault(self, architecture: str) -> str | None:
        return None if architecture == ENCODER_DECODER else "is no encoder-decoder; take NLLB or another M2M-100"

    def check(self, examples: Sequence[Example], source: str) -> None:
        for example in examples:
            if example.languages is None:
                raise UsageError(
                    f"{example.place}: there is no parallel text, which task translation needs; "
                    f"set text_language or pair_language of {source}"
                )
            missing = "text" if not example.text else "second text" if not example.pair else None
            if missing is not None:
                raise UsageError(
                    f"{example.place}: there is no {missing}, which task translation needs; check {source}"
                )

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
                    "target_language": example.languages[1],
                }
            )
        return rows

    def collate(self, features: Sequence[Features], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        self._encoder = encoder  # `score` decodes the model's output with it
        targets = [row["target_ids"] for row in features]
        return self._inputs([row["input_ids"] for row in features], encoder) | {
            "decoder_input_ids": pad([[_end(encoder), *ids[:-1]] for ids in targets], encoder.pad_id),
            "labels": pad(targets, IGNORED_LABEL),
        }

    def targets(self, batch: Tensors) -> int:
        return int((batch["labels"] != IGNORED_LABEL).sum())

    def loss(self, model: TransferModel, batch: Tensors) -> Tensor:
        hidden = model.decode(batch["input_ids"], batch["attention_mask"], batch["decoder_input_ids"])
        is_target = batch["labels"] != IGNORED_LABEL
        smoothing = self.label_smoothing if model.training else 0.0
        return summed_loss(model, hidden[is_target], batch["labels"][is_target], smoothing)

    def blank(self, example: Example) -> Example:
        return replace(example, pair=example.text)

    def predict(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> list[str]:
        """Returns the translations."""
        ids = self._generate(model, self._encoder, batch, batch["labels"][:, 0], self.beams)
        return _texts(ids, self._encoder)

    def compare(self, predicted: Sequence[str], batch: Tensors, rows: Sequence[Features]) -> Translated:
        """Returns the translations, the references and the target languages."""
        return list(predicted), [row["reference"] for row in rows], [row["target_language"] for row in rows]

    def annotate(self, rows: Sequence[Features], predicted: Sequence[str]) -> Annotation:
        return Annotation(text=predicted[0])

    def metrics(self, scores: Sequence[Translated]) -> dict[str, float]:
        return {name: score for name, (score, _) in self._scores(scores).items()}

    def signatures(self, rows: Sequence[Features]) -> dict[str, str]:
        languages = sorted({row["target_language"] for row in rows})
        scores = self._scores([(languages, languages, languages)])  # a signature does not depend on the texts
        return {name: signature for name, (_, signature) in scores.items()}

    def _scores(self, scores: Sequence[Translated]) -> dict[str, tuple[float, str]]:
        """Returns metric -> its value and sacrebleu's signature."""
        translations, references, languages = (
            [text for batch in column for text in batch] for column in zip(*scores, strict=True)
        )
        return {
            "chrf": corpus_chrf(translations, references),
            "bleu": corpus_bleu(translations, references, languages, self._bleu_tokenizer),
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
        """Generates token ids, (texts, at most `max_length` - 1), without the two with which each text begins.

        The language's token is forced as first output, as `forced_bos_token_id` does for a single language, and is not
        part of the prompt, so that beam search counts it in the length by which it divides.
        """
        ids = whole_pretrained(model).generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_input_ids=torch.full_like(into, _end(encoder))[:, None],
            logits_processor=[_force_first_token(into)],
            num_beams=beams,
            do_sample=False,
            max_new_tokens=self.max_length,
        )
        return ids[:, 2:]

    def _language_ids(self, codes: Iterable[str], encoder: Encoder) -> dict[str, int]:
        """Returns code -> id of the language's token.

        It lists the vocabulary only once, which takes tenths of a second for a large one.

        Raises:
            UsageError: the model has no token for a language.
        """
        tokenizer = encoder.tokenizer
        known, vocabulary = language_tokens(tokenizer), tokenizer.get_vocab()
        ids = {}
        for code in sorted(set(codes)):
            token = self._tokens.get(code) or known.get(code)
            if token is None or token not in vocabulary:
                missing = f"the model has no token {token}" if token is not None else "the model has no token for it"
                if near := near_languages(code, known):
                    missing += f", but for {', '.join(near)}"
                raise UsageError(
                    f"language {code}: {missing}; set +model.new_languages.{code}=CODE_OF_A_RELATED_LANGUAGE "
                    f"or task.tokens.{code}"
                )
            ids[code] = int(vocabulary[token])
        return ids

    def _sequence(self, language: int, pieces: list[int], encoder: Encoder) -> list[int]:
        return [language, *pieces[: self.max_length - 2], _end(encoder)]

    @staticmethod
    def _inputs(rows: Sequence[list[int]], encoder: Encoder) -> dict[str, Tensor]:
        return {"input_ids": pad(rows, encoder.pad_id), "attention_mask": pad([[1] * len(ids) for ids in rows], 0)}


def corpus_chrf(translations: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Returns chrF++ over all texts together, from 0 to 100, and sacrebleu's signature."""
    from sacrebleu.metrics import CHRF

    chrf = CHRF(word_order=2)
    return chrf.corpus_score(list(translations), [list(references)]).score, str(chrf.get_signature())


def _end(encoder: Encoder) -> int:
    """Returns the id of the token that ends a text; the decoder of this model family begins with it."""
    tokenizer: Any = encoder.tokenizer
    return int(tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id)


def _force_first_token(languages: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns a logits processor for `generate` that forces the first token of each text; `languages` is (texts,)."""

    def force(ids: Tensor, scores: Tensor) -> Tensor:
        if ids.shape[1] > 1:
            return scores
        beams = len(scores) // len(languages)
        only = torch.full_like(scores, -math.inf)
        return only.scatter_(1, languages.repeat_interleave(beams)[:, None], 0.0)

    return force


def _texts(ids: Tensor, encoder: Encoder) -> list[str]:
    return [text.strip() for text in encoder.tokenizer.batch_decode(ids, skip_special_tokens=True)]
