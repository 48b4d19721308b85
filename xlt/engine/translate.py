"""Translates a source with a model: texts in batches by length, each different text once.

A translation that was stopped goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from xlt.config import RunConfig, SourceConfig, TranslationConfig
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.sources import read_source
from xlt.data.transforms.translation import TRANSLATED_FILE, DoneTexts, save_translated
from xlt.engine.build import build_encoder, build_model, build_task
from xlt.engine.evaluation import autocast
from xlt.engine.run import RESULT_FILE, ModuleFile, Standing
from xlt.engine.run_data import RunData
from xlt.engine.training import Interrupted, StopSignals
from xlt.engine.watching import Watcher
from xlt.errors import UsageError
from xlt.files import write_json
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleStack, check_base
from xlt.tasks.task import Task


@dataclass(frozen=True)
class TranslationJob:
    """The translation of a source by a run: a `SourceJob`.

    Attributes:
        source: the original, untranslated.
        language: ISO 639-3 code of the language that it is translated into.
        settings: how.
        modules: of the translator, in the order in which they are applied.
    """

    source: SourceConfig
    language: str
    settings: TranslationConfig
    modules: tuple[ModuleFile, ...] = ()
    verb: ClassVar[str] = "translate"
    noun: ClassVar[str] = "translated source"

    @property
    def languages(self) -> tuple[str, str]:
        return self.settings.source_language, self.language

    def check(self) -> None:
        _texts(self)

    def carry_out(self, config: RunConfig, standing: Standing, folder: Path, watcher: Watcher) -> dict[str, Any]:
        return translate_source(config, standing, self, folder, watcher)


def translate_source(
    config: RunConfig, standing: Standing, job: TranslationJob, folder: Path, watcher: Watcher
) -> dict[str, Any]:
    """Translates what is left of a source; leaves `translated.jsonl` and, last, `result.json`.

    The batches do not depend on where the translation was stopped, so neither do the translations.

    Args:
        config: of the translator's run.
        standing: what the translator stands on.
        job: what to translate.
        folder: of this run.
        watcher: receives the progress after every batch.
    Returns:
        The content of `result.json`: how many examples and different texts, how many texts were cut at the end.
    Raises:
        UsageError: the source, or the translator, cannot be used for it.
        Interrupted: stopped by a signal; what was translated is kept.
    """
    started = time.monotonic()
    task = build_task(config.task)
    texts, examples = _texts(job)
    model, encoder = _translator(config, standing, job, task)
    lengths = {text: len(encoder.wrap(ids)) for text, ids in zip(texts, encoder.lines(texts), strict=True)}
    order = sorted(texts, key=lambda text: (lengths[text], text))
    done = DoneTexts(folder)
    watcher.begin_phase("translate", len(done.translations), len(texts))
    with StopSignals() as stop:
        for batch in _batches(order, lengths, job.settings.batch_tokens):
            if all(text in done.translations for text in batch):
                continue
            if stop.number:
                raise Interrupted(stop.number)
            with autocast(model, config.train.precision):
                translations = task.translate(model, encoder, batch, job.languages, job.settings.beams)
            done.add(batch, translations)
            watcher.metrics("translate", len(done.translations), {"texts": len(done.translations)})
    save_translated(folder / TRANSLATED_FILE, examples, done.translations, job.settings.fields)
    result = {
        "fingerprint": standing.fingerprint,
        "training": {"seconds": time.monotonic() - started},
        "examples": len(examples),
        "texts": len(texts),
        "texts_cut": sum(length > task.max_length for length in lengths.values()),
        "texts_translated_to_nothing": sum(not done.translations[text] for text in texts),
    }
    write_json(folder / RESULT_FILE, result)
    done.discard()
    return result


def _texts(job: TranslationJob) -> tuple[list[str], list[Example]]:
    """The different texts to be translated, in order, and all examples of the original source.

    Raises:
        UsageError: an example lacks a text, or has labels of words or spans.
    """
    examples = list(read_source(f"{job.source.reader} {job.source.language}", job.source, seed=0))
    texts: dict[str, None] = {}
    for example in examples:
        if example.words is not None or example.answers:
            raise UsageError(f"{example.place}: labels of words or spans do not survive translation")
        for field in job.settings.fields:
            text = getattr(example, field)
            if text is None:
                raise UsageError(f"{example.place}: no {field} to translate; give translation.fields")
            texts[text] = None
    return list(texts), examples


def _translator(
    config: RunConfig, standing: Standing, job: TranslationJob, task: Task
) -> tuple[TransferModel, Encoder]:
    """The model that translates, with its modules in it, and its tokenizer.

    Raises:
        UsageError, ModuleFileError: model and modules do not fit.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    encoder = build_encoder(config, standing.model_path, RunData(config, task))
    model = build_model(config, standing.model_path, task, encoder, trains=False)
    modules = []
    for file in job.modules:
        module = file.load()
        check_base(module.header, model.base_hash, file.path)
        modules.append(module)
    ModuleStack(model).set(modules)
    return model.eval(), encoder


def _batches(texts: Sequence[str], lengths: dict[str, int], most_tokens: int) -> Iterator[list[str]]:
    """Cuts the texts, in their order, into batches of at most `most_tokens` tokens with padding."""
    batch: list[str] = []
    for text in texts:
        if batch and max(lengths[text], lengths[batch[-1]]) * (len(batch) + 1) > most_tokens:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch
