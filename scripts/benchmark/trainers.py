"""The engine's own training loop on random models and random sentences, as a whole or step by step."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from xlt_kernels.select import select_at_random

from benchmark.memory import PeakMemory
from benchmark.shapes import bert_config
from xlt.compose import checked, compose, hydra_ready
from xlt.config import RunConfig
from xlt.data.mix import LoadedSource
from xlt.data.streams import stream
from xlt.engine.activation import LanguageActivation
from xlt.engine.build import build_method, build_task
from xlt.engine.processes import Processes
from xlt.engine.training import Trainer
from xlt.engine.watching import Silence, Watcher
from xlt.methods.method import Setting
from xlt.models.transfer import TransferModel, split_pretrained
from xlt.modules import Entries, ModuleHeader, SparseDelta
from xlt.tasks.task import Task

# A benchmark neither evaluates nor saves while it trains.
ONLY_TRAINING = ("train.evaluate_every_steps=1000000", "train.save_every_seconds=1000000")
_SENTENCES = 64
_FIELDS = 13  # labels of the task nano_fields
_MODULE_DENSITY = 0.08


class StepClock(Silence):
    """A watcher that notes the seconds of each step and the peak memory of each phase.

    Attributes:
        seconds: phase -> seconds of each step.
        peak_mib: phase -> peak memory on the CPU.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.peak_mib: dict[str, float] = {}
        self._last = 0.0

    def begin_phase(self, name: str, start: int, steps: int) -> None:
        self._memory = PeakMemory()
        self.seconds[name] = []
        self._last = time.perf_counter()

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        if is_evaluation(values):
            return
        now = time.perf_counter()
        self.seconds[phase].append(now - self._last)
        self._last = now
        self.peak_mib[phase] = self._memory.peak_mib()


def is_evaluation(values: Mapping[str, float]) -> bool:
    """Whether a watcher's metrics are those of an evaluation, not of a training step."""
    return any(name.startswith("validation/") for name in values)


class NoTokenizer:
    """Takes the place of an encoder where the sentences consist of token ids already."""

    pad_id = 0


def run_config(overrides: Sequence[str]) -> RunConfig:
    with hydra_ready():
        return checked(compose([*overrides, *ONLY_TRAINING]))


def make_trainer(
    config: RunConfig,
    task: Task,
    model: TransferModel,
    rows: Sequence[dict[str, Any]],
    languages: Sequence[str] = ("eng",),
    modules: Mapping[str, SparseDelta] | None = None,
) -> Trainer:
    """A trainer of one model on the same rows for each language.

    Args:
        rows: the task's features of each example.
        modules: language -> the module that is active while the language's batches are trained on.
    """
    return Trainer(
        model=model,
        method=build_method(config.method),
        task=task,
        encoder=NoTokenizer(),  # type: ignore[arg-type]
        sources=[LoadedSource(language, language, list(rows)) for language in languages],
        validation=[LoadedSource("random", languages[0], list(rows[:1]))],
        activation=LanguageActivation(model, dict(modules or {}), list(languages)),
        recipe=config.train,
        setting=Setting(adapts_language=False, random=lambda *name: stream(0, *name)),
        seed=0,
        processes=Processes(),
    )


def tagging_trainer(
    size: str,
    method: str,
    overrides: Sequence[str],
    tokens: int | Sequence[int],
    languages: Sequence[str] = ("eng",),
    layers: int | None = None,
) -> Trainer:
    """A trainer of a tagger with random weights on random sentences.

    Several languages have a language module each: 8% of the model's entries, drawn at random.

    Args:
        size: a key of `ENCODERS`.
        overrides: of the experiment nano_fields.
        tokens: in each of 64 sentences; or the lengths of all sentences.
        layers: of the model; None: those of its size.
    """
    from transformers import BertForMaskedLM

    torch.manual_seed(0)
    shape = bert_config(size, **({} if layers is None else {"num_hidden_layers": layers}))
    model = TransferModel(*split_pretrained(BertForMaskedLM(shape)), "random", size)
    model.lm_head = None
    lengths = [tokens] * _SENTENCES if isinstance(tokens, int) else list(tokens)
    words = ["experiment=nano_fields", f"method={method}", f"task.max_length={max(lengths)}", *overrides]
    config = run_config(words)
    task = build_task(config.task)
    model.head = task.head(model.hidden_size)
    generator = torch.Generator().manual_seed(0)
    rows = [
        {
            "input_ids": torch.randint(5, int(shape.vocab_size), (length,), generator=generator).tolist(),
            "labels": (labels := torch.randint(0, _FIELDS, (length,), generator=generator).tolist()),
            "last_labels": labels,  # each token is a word
            "example": number,
            "window": 0,
        }
        for number, length in enumerate(lengths)
    ]
    modules = {}
    if len(languages) > 1:
        modules = {language: random_module(model, language, generator) for language in languages}
    return make_trainer(config, task, model, rows, languages, modules)


def train(trainer: Trainer, watcher: Watcher) -> None:
    """Trains to the end, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(Path(folder), watcher)


def random_module(model: TransferModel, language: str, generator: torch.Generator) -> SparseDelta:
    """A language module of 8% of a model's entries, drawn at random."""
    shapes = {
        name: weight.shape
        for name, weight in model.named_parameters()
        if not name.startswith("head.") and "LayerNorm" not in name
    }
    chosen = select_at_random(shapes, round(_MODULE_DENSITY * model.pretrained_parameters), generator)
    entries = {
        name: Entries(indices, torch.randn(indices.numel(), generator=generator) / 100, shapes[name])
        for name, indices in chosen.items()
        if indices.numel()
    }
    header = ModuleHeader(
        kind="sparse_delta", method="random_sft", base_model="random", base_hash="random", language=language
    )
    return SparseDelta(header, entries)


class SteppedTrainer:
    """The engine's loop, one step a call, so that it can take turns with other contenders in one process.

    The loop runs in a thread of its own, which waits wherever a step of the phase has ended; so of all contenders only
    one computes at any time.

    Args:
        trainer: with more steps in the phase than will be made.
        phase: whose steps are made; the constructor trains the phases before it, and one step of it.
    """

    def __init__(self, trainer: Trainer, phase: str) -> None:
        self._gate = _Gate(phase)
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(trainer,), daemon=True)
        self._thread.start()
        self._wait()

    def step(self) -> None:
        self._gate.go.release()
        self._wait()

    def close(self) -> None:
        """Ends the loop and frees what it holds."""
        self._gate.stops = True
        self._gate.go.release()
        self._thread.join()

    def _run(self, trainer: Trainer) -> None:
        try:
            train(trainer, self._gate)
            raise RuntimeError("the phase has too few steps for this benchmark")
        except _Closed:
            pass
        except BaseException as error:
            self._failures.append(error)
            self._gate.waits.release()

    def _wait(self) -> None:
        self._gate.waits.acquire()
        if self._failures:
            raise self._failures[0]


class _Closed(BaseException):
    """Ends a loop whose trainer is no longer needed."""


class _Gate(Silence):
    """A watcher that holds the training back after each step of one phase.

    Attributes:
        go, waits: released when a step may be made, and when it has been made.
        stops: whether the training is to end at the gate.
    """

    stops = False

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self.go, self.waits = threading.Semaphore(0), threading.Semaphore(0)

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        if phase != self._phase or is_evaluation(values):
            return
        self.waits.release()
        self.go.acquire()
        if self.stops:
            raise _Closed
