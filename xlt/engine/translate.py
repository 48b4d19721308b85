"""Translates a source with a model: texts are batched by length, and each distinct text is translated once.

A translation that was stopped continues where it stopped.
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
from xlt.files import digests_of, write_sealed
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleStack, check_base
from xlt.tasks.task import Task


@dataclass(frozen=True)
class TranslationJob:
    """The job of a run that translates a source; it implements `SourceJob`.

    Attributes:
        source: the original, untranslated source.
        language: ISO 639-3 code of the language that it is translated into.
        settings: settings of the translation.
        modules: modules of the translator, in the order in which they are applied.
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
    """Translates a source, or the rest of it; writes `translated.jsonl` and, at last, `result.json`.

    The batches, and so the translations, do not depend on interruptions.

    Args:
        config: of the translator's run.
        standing: the models and modules that the translator needs.
        job: the translation to carry out.
        folder: of this run.
        watcher: receives the progress after every batch.
    Returns:
        The content of `result.json`: numbers of examples, of distinct texts, and of texts that were truncated; and the
        digest of the file.
    Raises:
        UsageError: the source or the translator cannot be used.
        Interrupted: a signal stopped the translation; finished translations are kept.
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
        "files": digests_of(folder, (TRANSLATED_FILE,)),
    }
    write_sealed(folder / RESULT_FILE, result)
    done.discard()
    return result


def _texts(job: TranslationJob) -> tuple[list[str], list[Example]]:
    """Returns the distinct texts to be translated, in order, and all examples of the original source.

    Raises:
        UsageError: an example lacks a text, or has labels for words or spans.
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
    """Loads the model that translates, with its modules, and its tokenizer.

    Raises:
        UsageError, ModuleFileError: model and modules do not fit together.
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
    """Groups the texts, in their order, into batches of at most `most_tokens` tokens, with padding."""
    batch: list[str] = []
    for text in texts:
        if batch and max(lengths[text], lengths[batch[-1]]) * (len(batch) + 1) > most_tokens:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch
