"""Several tasks in one run: each has its own head on the one model, and each batch is of one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.utils import get_class
from torch import Tensor, nn

from xlt.config import key
from xlt.config.data import TASK
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.errors import UsageError
from xlt.models.transfer import TransferModel
from xlt.tasks.task import Task, Tensors

MEAN = "mean"
"""The metric that selects checkpoints: the mean of the tasks' metrics, as shares of their ranges, in percent."""


@dataclass
class JointConfig:
    """Settings of several tasks in one run."""

    _target_: str = "xlt.tasks.joint.Joint"
    name: str = key("name of the tasks together, in tables and module files", name=True)
    tasks: dict[str, Any] = key("name -> settings of a task; a source says its task in features.task")
    select_by: list[str] = key("names of the tasks whose metrics select the checkpoint; empty: all")

    def faults(self, prefix: str) -> Iterator[str]:
        if not self.tasks:
            yield f"{prefix}.tasks: empty; name some, for instance with +task@{prefix}.tasks.ner=ner"
        for name, config in self.tasks.items():
            where = f"{prefix}.tasks.{name}"
            target = getattr(type(config), "_target_", None)
            if not isinstance(target, str):
                yield f"{where}: no settings of a task; choose a file of conf/task with +task@{where}=ner"
                continue
            if not name.isidentifier() or hasattr(nn.ModuleDict, name):
                yield f"{where}: {name!r} can be no name of a head; take a word of letters, digits and _"
            if (fault := self.part_fault(get_class(target))) is not None:
                yield f"{where}: {fault}"
        for name in self.select_by:
            if name not in self.tasks:
                yield f"{prefix}.select_by: no task {name}; there are {', '.join(self.tasks)}"

    @staticmethod
    def part_fault(part: type[Task]) -> str | None:
        """Returns why a task cannot be one of several in a run; None if it can."""
        if issubclass(part, Joint):
            return "these are several tasks themselves; list them one by one"
        if not part.has_head or part.needs_lm_head:
            return "it has no head of its own; for tasks as text to text take a task of class joint_texts"
        if part.metric_range is None:
            return "its metric has no greatest value, so that it cannot be averaged with those of others"
        return None


SCHEMA = JointConfig


class Joint(Task):
    """Several tasks with heads on one model, which a method adapts for all of them.

    An example belongs to the task that its feature `task` names. A batch has examples of one task; heads of the others
    get no gradient in its step, so that they and the optimiser's state for them stay as they are.

    The metric is the mean over the tasks of each one's metric, as a share of its range, in percent; a task's metric is
    the mean over its languages. With `select_by`, the mean is over these tasks. The heads are tensors `head.NAME. ...`.
    """

    metric = MEAN

    def __init__(self, name: str, tasks: Mapping[str, Task], select_by: Sequence[str] = ()) -> None:
        self.name, self._parts, self._selecting = name, dict(tasks), tuple(select_by) or tuple(tasks)
        self.max_length = max(task.max_length for task in tasks.values())
        self.validates_at_random = any(task.validates_at_random for task in tasks.values())
        for key_, task in tasks.items():
            task.head_name, task.joint = key_, self

    @classmethod
    def configs(cls, config: Any) -> dict[str, Any]:
        return dict(config.tasks)

    @classmethod
    def selecting(cls, config: Any) -> list[str]:
        return list(config.select_by) or list(config.tasks)

    def lengths(self) -> dict[str, int]:
        return {f"task.tasks.{name}.max_length": task.max_length for name, task in self._parts.items()}

    def part(self, described: Mapping[str, str]) -> Task:
        try:
            return self._parts[described[TASK]]
        except KeyError as error:
            raise UsageError(f"features.task={error.args[0]}: task {self.name} has only {self._names}") from error

    def summary(self, means: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        shares = [self._parts[name].share(found) for name, found in means.items() if name in self._selecting]
        each = {f"{name}/{metric}": value for name, found in means.items() for metric, value in found.items()}
        return {MEAN: 100 * sum(shares) / len(shares), **each}

    def architecture_fault(self, architecture: str) -> str | None:
        faults = {name: task.architecture_fault(architecture) for name, task in self._parts.items()}
        return next((f"{fault} (for {name})" for name, fault in faults.items() if fault is not None), None)

    def check_tokenizer(self, encoder: Encoder) -> None:
        for task in self._parts.values():
            task.check_tokenizer(encoder)

    def head(self, hidden_size: int) -> nn.Module | None:
        heads = {name: task.head(hidden_size) for name, task in self._parts.items()}
        return nn.ModuleDict({name: head for name, head in heads.items() if head is not None})

    def labels(self) -> list[str]:
        return [f"{name}:{label}" for name, task in self._parts.items() for label in task.labels()]

    def check(self, examples: Sequence[Example], source: str) -> None:
        raise self._several("check")

    def features(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        raise self._several("features")

    def collate(self, features: Sequence[Features], encoder: Encoder, generator: Any) -> dict[str, Tensor]:
        raise self._several("collate")

    def targets(self, batch: Tensors) -> int:
        raise self._several("targets")

    def loss(self, model: TransferModel, batch: Tensors) -> Tensor:
        raise self._several("loss")

    def score(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> Any:
        raise self._several("score")

    def metrics(self, scores: Sequence[Any]) -> dict[str, float]:
        raise self._several("metrics")

    @property
    def _names(self) -> str:
        return ", ".join(self._parts)

    def _several(self, what: str) -> TypeError:
        return TypeError(f"{what}: task {self.name} is several ({self._names}); ask for one of them with part(...)")
