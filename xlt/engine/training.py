"""The one training loop."""

from __future__ import annotations

import functools
import math
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from xlt.config import TrainConfig
from xlt.config.data import TASK
from xlt.data.encoding import Encoder
from xlt.data.mix import Batch, LoadedSource, Mix, Sampling
from xlt.data.mixed_batches import MixedBatches, MixedBatchesOfParts
from xlt.data.streams import stream, stream_seed
from xlt.engine.activation import LanguageActivation
from xlt.engine.averaging import Averaging, averaging_of
from xlt.engine.evaluation import autocast, evaluate
from xlt.engine.micro_batches import micro_batches, micro_batches_by_length, rows_of
from xlt.engine.processes import Processes
from xlt.engine.state import Position, RunState, copy_into, load_optimizer
from xlt.engine.watching import Watcher
from xlt.errors import UsageError
from xlt.methods.method import HEAD, Budget, Method, MicroBatch, Phase, Setting
from xlt.models.cpu_training import fast_training
from xlt.models.transfer import TransferModel, parameter_report
from xlt.tasks.task import Task

_LARGEST_SHARE_OF_SAVING = 0.05
# What one more micro-batch costs a CPU: to add its gradients to those before, in tokens; and for its calls, in tokens
# times parameters outside the embeddings.
_COST_OF_SUMS = 150
_COST_OF_CALLS = 1e8


class Interrupted(Exception):
    """A signal stopped the run; its state is saved, and the same command resumes it.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, number: int) -> None:
        self.signal = number
        super().__init__(
            f"stopped by {signal.Signals(number).name}; the state is saved, the same command resumes the run"
        )


@dataclass
class Trainer:
    """The training loop, which trains a model with a method on a mix of sources, phase by phase.

    A phase ends with the weights of its best validation. With `averaging`, the last phase ends with a mean over its
    steps instead.

    It guarantees three things. A run that was killed and resumed, however often, ends in the same weights (bit for bit
    on a CPU with the same number of threads). The loss of a step is the sum over its targets divided by their number,
    whatever the micro-batch size and the number of processes. With several processes, all end in the leader's weights,
    up to the order of summation.

    Attributes:
        sources, validation: training sources, and those that select the best checkpoint of each phase.
        setting: facts about the run for the method.
        seed: of all random streams.
        sampling: how the source of a step is drawn; None means that an epoch has every example once.
        mixed_batches: whether a batch has examples of all sources of a task; otherwise it is of one source.
    """

    model: TransferModel
    method: Method
    task: Task
    encoder: Encoder
    sources: Sequence[LoadedSource]
    validation: Sequence[LoadedSource]
    activation: LanguageActivation
    recipe: TrainConfig
    setting: Setting
    seed: int
    processes: Processes
    sampling: Sampling | None = None
    mixed_batches: bool = False
    _attached: bool = field(default=False, init=False)
    _idle: Iterable[str] = field(default=(), init=False)

    def __post_init__(self) -> None:
        # Before a method adds parameters, so that a resumed run divides its steps in the same way.
        self._cost = _COST_OF_SUMS + round(_COST_OF_CALLS / max(parameter_report(self.model)["body_parameters"], 1))

    def train(self, folder: Path, watcher: Watcher, run: str = "") -> dict[str, float]:
        """Trains all phases; afterwards the model holds the last phase's best checkpoint, or the mean of its weights.

        Args:
            folder: holds the state, from which a resumed run continues.
            watcher: receives the events of training.
            run: fingerprint of the run; a saved state of another run is set aside.
        Returns:
            the validation metric of the weights that it ends with, their step (the last one for a mean), and the
            seconds of training, including those before interruptions.
        Raises:
            Interrupted: SIGTERM, SIGINT or SIGUSR2 arrived; the state has been saved.
            FloatingPointError: a loss or a validation metric is not finite.
            UsageError: a phase is too short for the method.
        """
        self._state, self.watcher = RunState(folder, run), watcher
        saved = self._state.load()
        position, parts = saved if saved is not None else (Position(), None)
        self._started = time.monotonic() - position.seconds
        self._saved_at = time.monotonic()
        self._saving_took = 0.0
        assert saved is None or not self._attached, "a resumed method is attached after its state is loaded"
        if parts is not None:
            self.method.load_state(parts["method"])
        watcher.rewind(position.records)
        phases = self.phases
        largest = max(source.examples_an_epoch for source in self.sources)
        if saved is None and self.recipe.batch_size > largest:
            watcher.note(
                f"train.batch_size={self.recipe.batch_size}: the largest source has {largest} examples, and a step has "
                "no more"
            )
        with StopSignals() as self._stop:
            for index in range(position.phase, len(phases)):
                if index > position.phase:
                    position = Position(phase=index, seconds=self._elapsed())
                    parts = None
                self._train_phase(phases[index], position, parts)
        return {
            f"best/{self.task.metric}": position.best_metric if position.best_metric is not None else math.nan,
            "best/step": position.best_step,
            **({"averaged": 1.0} if position.averaged else {}),
            "seconds": self._elapsed(),
        }

    @functools.cached_property
    def phases(self) -> list[Phase]:
        """The phases of the run.

        Raises:
            UsageError: a phase is too short for the method.
        """
        phases = self.method.phases(self._budget())
        faults = [fault for phase in phases if (fault := self.method.steps_fault(phase.steps)) is not None]
        if faults:
            raise UsageError(*faults)
        return phases

    def attach_first_phase(self) -> None:
        """Attaches the method for its first phase, which `train` then does not do again; not for a resumed run."""
        self._attach(self.phases[0])
        self._attached = True

    def _attach(self, phase: Phase) -> None:
        languages = sorted({source.language for source in self.sources})
        described = [source.described for source in self.sources]
        setting = replace(
            self.setting,
            micro_batches=self.recipe.micro_batch_size is not None,
            processes=self.processes.count,
            languages=languages,
            described=described,
        )
        self.method.attach(self.model, phase, setting)

    def _train_phase(self, phase: Phase, position: Position, parts: dict[str, dict[str, Tensor]] | None) -> None:
        recipe = self.recipe
        if not self._attached:
            self._attach(phase)
        self._attached = False
        trainable = self.method.trainable()
        self.processes.same_weights(trainable.values())
        optimizer = self.method.optimizer(trainable, phase.learning_rate, recipe.weight_decay)
        if parts is not None:
            copy_into(trainable, parts["trainable"])
            load_optimizer(optimizer, trainable, parts["optimizer"])
        self.activation.begin(self.method)
        mix = self._mix(phase.name)
        evaluate_every = self._evaluation_interval(mix)
        validated = sorted({*range(evaluate_every, phase.steps + 1, evaluate_every), phase.steps})
        average: Averaging | None = None
        if phase is self.phases[-1]:
            saved = {} if parts is None else parts["average"]
            average = averaging_of(recipe, self._state, phase.name, validated, saved)
        head_rate = recipe.head_learning_rate or phase.learning_rate
        if position.step == 0 and evaluate_every > phase.steps:
            self.watcher.note(
                f"phase {phase.name}: {phase.steps} steps are fewer than the {evaluate_every} between two validations; "
                "it is validated once, after its last step"
            )
        self.watcher.begin_phase(phase.name, position.step, phase.steps)
        self.model.train()
        while position.step < phase.steps:
            schedule = self._schedule(position.step, phase.steps)
            rate = phase.learning_rate * schedule
            for group in optimizer.param_groups:
                group["lr"] = head_rate * schedule if group.get("head") else rate
            loss, targets = self._forward_backward(phase, position.step, mix)
            untouched = {*self.method.untouched(), *self._idle}
            self.processes.sum_gradients(value for name, value in trainable.items() if name not in untouched)
            self.processes.sum_tensors(self.method.partial_sums())
            self.method.before_step()
            norm, clipping = self._clip(trainable.values())
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self.method.after_step(clipping)
            position.step += 1
            last = position.step == phase.steps
            if average is not None:
                average.after_step(trainable)
            self.watcher.metrics(
                phase.name, position.step, {"loss": loss, "rate": rate, "gradient_norm": norm, "targets": targets}
            )
            if position.step in validated:
                self._validate(phase, position, trainable)
                if average is not None and self.processes.leads:
                    average.after_validation(position.step, trainable)
            if not last:
                self._save_if_due(position, trainable, optimizer, average)
        if average is not None:
            if not position.averaged:
                self._load_mean(phase, position, trainable, average)
        elif position.best_metric is not None:
            self._load_best(phase, trainable)
        self.activation.end()
        self._state_after_phase(position, trainable, phase)

    def _forward_backward(self, phase: Phase, step: int, mix: Mix) -> tuple[float, float]:
        """Computes the gradients of a step's mean loss; returns the loss and number of targets of all processes."""
        batch = mix.batch(step)
        task = self.task.part(batch.described[0])
        self._idle = self._idle_heads(task)
        # Random draws are for the whole step, before it is divided, so that they do not depend on the division into
        # micro-batches and processes.
        whole = task.collate(batch.features, self.encoder, stream(self.seed, "collate", phase.name, step))
        mine = self.processes.share(len(batch.features))
        parts = self._micro_batches(whole, mine)
        batches = [rows_of(whole, rows, has_targets=self.model.decodes) for rows in parts]
        targets = self.processes.sum(sum(task.targets(part) for part in batches))
        torch.manual_seed(stream_seed(self.seed, "dropout", phase.name, step, self.processes.rank))
        self.activation.enter(batch.language)
        total: Tensor | float = 0.0
        if not parts:  # the method must know of every step, whether or not this process has an example of it
            self._announce(batch, range(0), phase, step)
        for rows, part in zip(parts, batches, strict=True):
            self._announce(batch, rows, phase, step)
            part = {name: tensor.to(self.model.device, non_blocking=True) for name, tensor in part.items()}
            with autocast(self.model, self.recipe.precision), fast_training(self.model.device):
                loss = self.method.loss(self.model, part, task.loss) / max(targets, 1)
            loss.backward()
            self.method.after_backward()
            total = total + loss.detach()
        self.activation.leave()
        mean = self.processes.sum(float(total))
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"phase {phase.name}, step {step + 1}: the loss is {mean}; lower train.learning_rate "
                "or set train.precision=fp32"
            )
        return mean, targets

    def _micro_batches(self, whole: Mapping[str, Tensor], mine: range) -> Sequence[Sequence[int]]:
        """Divides this process's rows of a step. On a CPU, a step has micro-batches by length unless a size is given.

        A GPU is not filled by a part of a usual step, so this would not pay there.
        """
        mask, size = whole["attention_mask"], self.recipe.micro_batch_size
        if size is not None or self.model.device.type != "cpu" or self.method.wants_whole_steps or mask.dim() > 2:
            return micro_batches(mine, size or max(len(mine), 1))
        lengths = mask[mine.start : mine.stop].sum(1).tolist()
        return [[mine[row] for row in part] for part in micro_batches_by_length(lengths, self._cost)]

    def _announce(self, batch: Batch, rows: Sequence[int], phase: Phase, step: int) -> None:
        """Tells the method the features of a step's examples, and which of these the following micro-batch has."""
        random = stream(self.seed, "features", phase.name, step)
        self.method.examples(batch.described, MicroBatch(rows, len(batch.features), random))

    def _validate(self, phase: Phase, position: Position, trainable: dict[str, nn.Parameter]) -> None:
        value = self._validation_metric(phase, position.step, "validation")
        best = position.best_metric
        if best is None or (value > best if self.task.greater_is_better else value < best):
            position.best_metric, position.best_step = value, position.step
            if self.processes.leads:
                self._state.save_best(phase.name, trainable, self.method.state())

    def _validation_metric(self, phase: Phase, step: int, called: str) -> float:
        """Evaluates the present weights on the validation sources; writes all metrics, and returns the main one.

        Raises:
            FloatingPointError: it is not finite.
        """
        found: dict[str, float] = {}
        if self.processes.leads:
            groups: dict[str, dict[str, list[LoadedSource]]] = {}
            for source in self.validation:
                of_task = groups.setdefault(source.described.get(TASK, ""), {})
                of_task.setdefault(source.language, []).append(source)
            found = self.task.summary({name: self._mean(of_task) for name, of_task in groups.items()})
            self.watcher.metrics(phase.name, step, {f"{called}/{k}": v for k, v in found.items()})
        (value,) = self.processes.from_leader([found.get(self.task.metric, math.nan)])
        if not math.isfinite(value):
            raise FloatingPointError(
                f"phase {phase.name}, step {step}: validation {self.task.metric} is {value}; "
                "lower train.learning_rate or set train.precision=fp32"
            )
        return value

    def _mean(self, per_language: Mapping[str, Sequence[LoadedSource]]) -> dict[str, float]:
        """Evaluates the sources of one task; returns the mean of each metric over their languages."""
        results = []
        for language, sources in per_language.items():
            self.activation.enter(language)
            results.append(self._evaluate(sources))
            self.activation.leave()
        return {name: sum(result[name] for result in results) / len(results) for name in results[0]}

    def _evaluate(self, sources: Sequence[LoadedSource]) -> dict[str, float]:
        size, precision = self.recipe.evaluation_batch_size, self.recipe.precision
        task = self.task.part(sources[0].described)
        return evaluate(self.model, task, sources, self.encoder, size, precision, self.method.examples)

    def _idle_heads(self, task: Task) -> Iterable[str]:
        """Returns the names of trainable tensors of heads that a batch of a task does not use."""
        if task.head_name is None:
            return ()
        own = f"{HEAD}{task.head_name}."
        return [name for name in self.method.trainable() if name.startswith(HEAD) and not name.startswith(own)]

    def _load_best(self, phase: Phase, trainable: dict[str, nn.Parameter]) -> None:
        state: dict[str, Tensor] = {}
        if self.processes.leads:
            state = self._state.load_best(phase.name, trainable)
        self.method.load_state(self.processes.from_leader(state))
        self.processes.same_weights(trainable.values())

    def _load_mean(
        self, phase: Phase, position: Position, trainable: dict[str, nn.Parameter], average: Averaging
    ) -> None:
        """Gives the trainable tensors their mean over the phase, and validates it."""
        copy_into(trainable, self.processes.from_leader(average.mean() if self.processes.leads else {}))
        self.processes.same_weights(trainable.values())
        position.best_metric = self._validation_metric(phase, position.step, "average")
        position.best_step, position.averaged = position.step, True

    def _save_if_due(
        self,
        position: Position,
        trainable: dict[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        average: Averaging | None,
    ) -> None:
        stop = self._stop_asked()
        due = time.monotonic() - self._saved_at >= self._seconds_between_saves()
        if self.processes.leads and (due or stop):
            position.seconds, position.records = self._elapsed(), self.watcher.written()
            began = time.monotonic()
            running = None if average is None else average.state()
            self._state.save(position, trainable, optimizer, self.method.state(), running)
            self._saved_at = time.monotonic()
            self._saving_took = self._saved_at - began
        if stop:
            self.processes.wait()
            raise Interrupted(stop)

    def _seconds_between_saves(self) -> float:
        """As long as the recipe says, or longer where saving would take more than a small share of the time."""
        every = self.recipe.save_every_seconds
        return max(every, self._saving_took / _LARGEST_SHARE_OF_SAVING) if every > 0 else 0.0

    def _state_after_phase(self, position: Position, trainable: dict[str, nn.Parameter], phase: Phase) -> None:
        """Saves the best checkpoint as the state at the end of a phase, so that a killed run does not repeat it."""
        stop = self._stop_asked()
        if self.processes.leads:
            position.seconds, position.records = self._elapsed(), self.watcher.written()
            self._state.save(position, trainable, None, self.method.state())
            self._saved_at = time.monotonic()
        self.processes.wait()
        if stop:
            raise Interrupted(stop)

    def _stop_asked(self) -> int:
        """Returns the signal that stops this or another process, 0 for none; all processes agree whether to stop."""
        here = self._stop.number
        anywhere = self.processes.sum(here)  # every process must take part in this sum
        return here or (int(signal.SIGTERM) if anywhere else 0)

    def _budget(self) -> Budget:
        recipe = self.recipe
        per_epoch = self._mix("budget").steps_per_epoch
        return Budget(per_epoch, recipe.epochs, recipe.max_steps, recipe.min_steps, recipe.learning_rate)

    def _mix(self, phase: str) -> Mix:
        recipe = self.recipe
        options = recipe.batch_size, self.seed, phase, self.sampling, recipe.group_by_length
        if not self.mixed_batches:
            return Mix(self.sources, *options)
        parts: dict[str | None, list[LoadedSource]] = {}
        for source in self.sources:
            parts.setdefault(self.task.part(source.described).head_name, []).append(source)
        several = len(parts) > 1
        return MixedBatchesOfParts([*parts.values()], *options) if several else MixedBatches(self.sources, *options)

    def _schedule(self, step: int, steps: int) -> float:
        """Returns the factor of the learning rate: a linear rise over the warm-up, then a linear decay to zero."""
        warmup = round(self.recipe.warmup_fraction * steps)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return (steps - step) / max(steps - warmup, 1)

    def _evaluation_interval(self, mix: Mix) -> int:
        if self.recipe.evaluate_every_steps is not None:
            return self.recipe.evaluate_every_steps
        assert self.recipe.evaluate_every_epochs is not None
        return max(1, round(self.recipe.evaluate_every_epochs * mix.steps_per_epoch))

    def _clip(self, parameters: Iterable[nn.Parameter]) -> tuple[float, float]:
        """Clips gradients in place; returns their norm before clipping and the factor that was applied."""
        limit = math.inf if self.recipe.clip_norm is None else self.recipe.clip_norm
        norm = float(nn.utils.clip_grad_norm_(parameters, limit))
        return norm, min(1.0, limit / (norm + 1e-6))  # torch's own constant

    def _elapsed(self) -> float:
        return time.monotonic() - self._started


class StopSignals:
    """A handler that remembers a stop signal until the loop has finished its step; a second SIGINT stops at once.

    SLURM sends SIGUSR2 when a job's time is nearly over.
    """

    number = 0

    def __enter__(self) -> StopSignals:
        self._before: dict[int, object] = {}
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            try:
                self._before[number] = signal.signal(number, self._remember)
            except ValueError:  # not the main thread, which alone can set handlers
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.number = number
