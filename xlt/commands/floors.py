"""Scores of constant answers, for comparison with the scores of trained models on the same data.

    xlt floors experiment=parsing data_dir=... model.path=...

The command takes the overrides of a run. It trains nothing, and prints the task's metrics of a constant answer on every
validation and evaluation source. The task itself computes them. The constant answer is

    tagging, classification  the most frequent label of the training sources
    parsing                  the neighbouring word as the head, the one before
                             or the one after, whichever is right more often
                             in the training sources, with the most frequent
                             relation
    question answering       the whole window
    language modelling       the relative frequency of each token in the
                             training sources, each counted once more than it
                             occurs
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from xlt.commands.ending import guarded
from xlt.commands.options import Options
from xlt.compose import checked, command_line, compose, hydra_ready
from xlt.config import RunConfig
from xlt.data.encoding import Encoder
from xlt.data.mix import Features
from xlt.data.streams import stream
from xlt.engine.build import build_encoder, build_task
from xlt.engine.run_data import RunData
from xlt.errors import UsageError
from xlt.tasks.causal_lm import CausalLanguageModelling
from xlt.tasks.classification import Classification
from xlt.tasks.mlm import MaskedLanguageModelling
from xlt.tasks.parsing import Parsing
from xlt.tasks.question_answering import Prediction, QuestionAnswering
from xlt.tasks.tagging import Tagging, Window
from xlt.tasks.task import Task
from xlt.tasks.token_prediction import TokenPrediction

Floor = Callable[[Sequence[Features]], Any]
"""Rows of a source -> the constant answer's results, in the form in which the task's `metrics` takes a batch."""


def tagging_floor(task: Tagging, training: Iterable[Features], encoder: Encoder) -> Floor:
    label = _most_frequent(label for row in training for label in row["labels"] if label >= 0)

    def floor(rows: Sequence[Features]) -> list[Window]:
        gold = [[label for label in row["labels"] if label >= 0] for row in rows]
        return [
            Window(row["example"], row["window"], labels, [label] * len(labels))
            for row, labels in zip(rows, gold, strict=True)
        ]

    return floor


def classification_floor(task: Classification, training: Iterable[Features], encoder: Encoder) -> Floor:
    label = _most_frequent(row["label"] for row in training)
    return lambda rows: ([row["label"] for row in rows], [label] * len(rows))


def parsing_floor(task: Parsing, training: Iterable[Features], encoder: Encoder) -> Floor:
    training = list(training)
    relation = _most_frequent(relation for row in training for relation in row["relations"])
    root = task.labels().index("root")

    def neighbours(count: int, step: int) -> list[int]:
        return [head if 0 < head <= count else 0 for head in range(1 + step, count + 1 + step)]

    def attached(rows: Iterable[Features], step: int) -> int:
        pairs = ((row["heads"], neighbours(len(row["heads"]), step)) for row in rows)
        return sum(a == b for heads, guessed in pairs for a, b in zip(heads, guessed, strict=True))

    step = max((-1, 1), key=lambda step: attached(training, step))

    def floor(rows: Sequence[Features]) -> tuple[int, int, int]:
        labelled = sum(
            head == guessed and of == (root if guessed == 0 else relation)
            for row in rows
            for head, of, guessed in zip(
                row["heads"], row["relations"], neighbours(len(row["heads"]), step), strict=True
            )
        )
        return attached(rows, step), labelled, sum(len(row["heads"]) for row in rows)

    return floor


def question_floor(task: QuestionAnswering, training: Iterable[Features], encoder: Encoder) -> Floor:
    return lambda rows: [Prediction(row["example"], 0.0, row["window"], row["text"], row["answers"]) for row in rows]


def language_model_floor(task: TokenPrediction, training: Iterable[Features], encoder: Encoder) -> Floor:
    counts = torch.ones(len(encoder.tokenizer), dtype=torch.float64)
    for row in training:
        counts += torch.bincount(torch.tensor(row["input_ids"]), minlength=len(counts))
    counts[sorted(encoder.special)] = 1
    likelihood, best = (counts / counts.sum()).log(), int(counts.argmax())

    def floor(rows: Sequence[Features]) -> tuple[float, int, int]:
        labels = task.collate(rows, encoder, stream(0, "evaluation"))["labels"]
        hidden = labels[labels >= 0]
        return -float(likelihood[hidden].sum()), int((hidden == best).sum()), len(hidden)

    return floor


FLOORS: dict[type[Task], Callable[[Any, Iterable[Features], Encoder], Floor]] = {
    Tagging: tagging_floor,
    Classification: classification_floor,
    Parsing: parsing_floor,
    QuestionAnswering: question_floor,
    MaskedLanguageModelling: language_model_floor,
    CausalLanguageModelling: language_model_floor,
}
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])")


def _most_frequent(values: Iterable[int]) -> int:
    return Counter(values).most_common(1)[0][0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = Options("floors", str(__doc__))
    parser.add_argument("--output", type=Path, default=None, help="JSON file for the numbers that are printed")
    parser.add_argument("overrides", nargs="*", help="overrides of the run: experiment=NAME, KEY=VALUE")
    options = parser.parse(arguments)
    with command_line(options.overrides):
        guarded(lambda: floors(options.overrides, options.output))


def floors(overrides: list[str], output: Path | None) -> int:
    """Prints the floors of a run's sources; returns the exit code.

    Raises:
        UsageError: wrong overrides or data, a task without a floor, a model that has to be trained first, or an
            output that cannot be written.
    """
    with hydra_ready():
        config = checked(compose(overrides))
    task = build_task(config.task)
    if faults := list(_faults(config, task, output)):
        raise UsageError(*faults)
    data = RunData(config, task)
    data.check()
    encoder = build_encoder(config, config.model.path, data)
    training = [row for source in data.load("sources", encoder) for row in source.features]
    floor = FLOORS[type(task)](task, training, encoder)
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for part in ("validation", "evaluation"):
        scores[part] = {
            source.name: task.metrics([floor(list(source.features))]) for source in data.load(part, encoder)
        }
        for name, metrics in scores[part].items():
            print(f"{part:10} {name:6} {'  '.join(f'{metric} {value:.2f}' for metric, value in metrics.items())}")
    if output is not None:
        output.write_text(json.dumps(scores, indent=1) + "\n")
    return 0


def _faults(config: RunConfig, task: Task, output: Path | None) -> Iterator[str]:
    """One line for each fault of the call; called before data are read."""
    if type(task) not in FLOORS:
        there = ", ".join(_WORDS.sub(" ", kind.__name__).lower() for kind in FLOORS)
        yield f"task: {task.name} has no floor; the tasks that have one are {there}"
    if config.model.run is not None:
        yield "model.run: floors need a tokenizer that exists already; give model.path=... model.run=null"
    if output is not None and not output.parent.is_dir():
        yield f"--output={output}: there is no folder {output.parent}"
    elif output is not None and output.is_dir():
        yield f"--output={output}: this is a folder; give a file, for instance {output}/floors.json"
