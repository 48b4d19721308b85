"""Finds the weights of learned compositions on few-shot data, before these are evaluated."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from xlt.config import RunConfig, SourceConfig
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.data.overlap import Overlap, texts_of
from xlt.data.planned import PlannedData, PlannedSource
from xlt.data.selection import readable
from xlt.data.sources import digest, read_source, source_identity
from xlt.data.streams import stream
from xlt.engine.build import build_encoder, build_model, build_task
from xlt.engine.composed import ComposedModule
from xlt.engine.evaluation import autocast, batches
from xlt.engine.run import Composition, ModuleFile
from xlt.engine.run_data import RunData
from xlt.engine.watching import Watcher
from xlt.errors import UsageError
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleFileError, ModuleStack, check_base
from xlt.modules.adapter import Adapter
from xlt.modules.composition.expression import Operation, computed, operators, searches, with_weights
from xlt.modules.composition.reweighted import ReweightedSum
from xlt.modules.sparse_delta import SparseDelta
from xlt.modules.stack import StackableModule
from xlt.tasks.task import Task


def learn_weights(
    config: RunConfig, planned: PlannedData, model_path: str, asked: Mapping[str, Composition], watcher: Watcher
) -> Iterator[tuple[str, Composition, dict[str, Any]]]:
    """Finds the weights of those compositions that have some to be found, one after the other.

    The weights of a composition have the least loss of the task on the few-shot sources in the language of its
    evaluation source, with the mean over all targets of all these sources. Texts of the evaluation source, also edited
    ones, are left out of them. No gradient is computed.

    Args:
        config, planned, model_path: as for `evaluate_compositions`.
        asked: key -> composition.
        watcher: receives a line for each search.
    Yields:
        Key, the composition with known weights, and facts for the record of the evaluation.
    Raises:
        UsageError, ModuleFileError: data, model and modules do not fit together, or data changed since planning.
    """
    learned = {key: one for key, one in asked.items() if searched(one) is not None}
    if not learned:
        return
    task = build_task(config.task)
    encoder = build_encoder(config, model_path, RunData(config, task, planned))
    model = build_model(config, model_path, task, encoder, trains=False)
    model.eval()
    stack = ModuleStack(model)
    for key, composition in learned.items():
        one = searched(composition)
        assert one is not None and one.operation is not None
        if search_content(one.search, config.seed) != one.search_content:
            names = ", ".join(name for name, _ in one.search)
            raise UsageError(f"{names}: its files have changed since this was planned; give the same command again")
        evaluated = planned.evaluation[composition.entry]
        data = []
        count = 0
        for name, source in one.search:
            own_task = task.part(source.features_of_examples(task.name))
            examples = search_examples(name, source, task, evaluated, config.seed)
            count += len(examples)
            data.append((own_task, own_task.features(examples, encoder)))
        described = evaluated.config.features_of_examples(task.name)
        model.speak(evaluated.language)
        below, above = _others(composition, one, model, described)
        loss = functools.partial(_loss_of, stack, _Candidate(one, model), below, above, model, data, encoder, config)
        (operation,) = searches(one.operation)
        settings = dict(operation.settings)
        settings["random"] = functools.partial(stream, settings.pop("seed"))
        averages = any(isinstance(module, Adapter) for module in one.loaded_parts().values())
        try:
            found = operators()[operation.operator].learn(loss, len(operation.parts), averages, **settings)
        except ValueError as error:
            raise UsageError(f"{composition.source}, {composition.label}: {error}") from error
        stack.set([])
        weights = {str(part): weight for part, weight in zip(operation.parts, found.weights, strict=True)}
        keys = [name for name, _ in one.search]
        facts = {"weights": weights, "loss": found.loss, "tried": found.tried, "examples": count, "data": keys}
        shown = ", ".join(f"{part} {weight:g}" for part, weight in weights.items())
        watcher.note(
            f"{composition.source}, {composition.label}: weights {shown}, found on {count} examples of "
            f"{', '.join(keys)}"
        )
        modules = tuple(one.with_weights(found.weights) if file is one else file for file in composition.modules)
        yield key, dataclasses.replace(composition, modules=modules), {"learned": facts}


def check_searches(config: RunConfig, planned: PlannedData, asked: Iterable[Composition]) -> None:
    """Reads and checks the few-shot data of compositions, before a model is loaded.

    Raises:
        UsageError: data have faults; a line for each.
    """
    task = build_task(config.task)
    lines: dict[str, None] = {}
    seen = set()
    for composition in asked:
        one = searched(composition)
        if one is None or (one.search_content, composition.entry) in seen:
            continue
        seen.add((one.search_content, composition.entry))
        for name, source in one.search:
            try:
                search_examples(name, source, task, planned.evaluation[composition.entry], config.seed)
            except UsageError as error:
                lines |= dict.fromkeys(error.lines)
    if lines:
        raise UsageError(*lines)


def searched(composition: Composition) -> ComposedModule | None:
    """Returns the module of a composition whose weights are to be found; None if it has none. There is one at most."""
    own = (file for file in composition.modules if isinstance(file, ComposedModule) and file.search)
    return next(own, None)


def search_content(sources: Iterable[tuple[str, SourceConfig]], seed: int) -> str:
    """Returns the digest of all that determines few-shot data, with the present content of their files."""
    return digest([search_identity(source, seed) for _, source in sources])


def search_identity(source: SourceConfig, seed: int) -> dict[str, Any]:
    """Returns what identifies the examples of a few-shot source, each of which counts once."""
    identity = {name: value for name, value in source_identity(source).items() if name != "upsample"}
    return {**identity, "seed": seed}


def search_examples(name: str, source: SourceConfig, task: Task, evaluated: PlannedSource, seed: int) -> list[Example]:
    """Reads a few-shot source, without the texts of an evaluation source and edited copies of them.

    Args:
        name: key of the source, for messages.
        source: its settings.
        task: of the run.
        evaluated: the evaluation source; all its texts count, also those that its cap leaves out.
        seed: of the run; decides which examples are drawn.
    Raises:
        UsageError: it is missing or broken, has no other texts, or has examples that the task cannot use.
    """
    own_task = task.part(source.features_of_examples(task.name))
    whole = readable(evaluated)
    whole = dataclasses.replace(whole, config=dataclasses.replace(whole.config, cap=None, cap_words=None))
    tested = Overlap(
        text for example in read_source(name, whole, seed) for text in (*texts_of(example), *example.untranslated)
    )
    examples = list(read_source(name, source, seed, tested, own_task.entity_column))
    own_task.check(examples, name)
    return examples


class _Candidate:
    """The module that a composition has with given weights.

    A weighted sum of sparse deltas stays in the model while its weights change; any other module is computed anew.
    """

    def __init__(self, one: ComposedModule, model: TransferModel) -> None:
        assert one.operation is not None
        self._one, self._operation, self._parts = one, one.operation, one.loaded_parts()
        for name, file in one.parts:
            check_base(self._parts[name].header, model.base_hash, file.path)
        self._sum: ReweightedSum | None = None
        own = searches(one.operation) == [one.operation] and all(isinstance(part, str) for part in one.operation.parts)
        kinds = all(isinstance(module, SparseDelta) for module in self._parts.values())
        first = with_weights(one.operation, [1.0] * len(one.operation.parts))
        if own and kinds and isinstance(first, Operation) and first.operator == "sum":
            try:
                self._sum = ReweightedSum([self._parts[str(part)] for part in one.operation.parts])
            except ValueError as error:
                raise ModuleFileError(one.path, str(error)) from error

    @property
    def stays(self) -> bool:
        """Whether the module stays in the model while its weights change."""
        return self._sum is not None

    def module(self, weights: Sequence[float]) -> StackableModule:
        """Returns the module with these weights.

        Raises:
            ModuleFileError: the parts cannot be combined.
        """
        if self._sum is not None:
            self._sum.set(weights)
            return self._sum
        try:
            return computed(with_weights(self._operation, weights), self._parts, stream)
        except ValueError as error:
            raise ModuleFileError(self._one.path, str(error)) from error


def _others(
    composition: Composition, one: ModuleFile, model: TransferModel, described: Mapping[str, str]
) -> tuple[list[ModuleArtefact], list[ModuleArtefact]]:
    """Loads the modules before and after the learned one; see `evaluate_compositions`."""
    loaded: list[list[ModuleArtefact]] = [[], []]
    after = False
    for file in composition.modules:
        if file is one:
            after = True
            continue
        module = file.load()
        check_base(module.header, model.base_hash, file.path)
        try:
            loaded[after].append(module.for_features(**described))
        except ValueError as error:
            raise ModuleFileError(file.path, str(error)) from error
    return loaded[0], loaded[1]


@torch.no_grad()
def _loss_of(
    stack: ModuleStack,
    candidate: _Candidate,
    below: Sequence[ModuleArtefact],
    above: Sequence[ModuleArtefact],
    model: TransferModel,
    data: Sequence[tuple[Task, Sequence[Features]]],
    encoder: Encoder,
    config: RunConfig,
    weights: Sequence[float],
) -> float:
    """Returns the mean loss of a model with a composition of these weights in it."""
    if above:
        stack.set([*below])  # the module below others must not change under them
    stack.set([*below, candidate.module(weights), *above])
    total, targets = 0.0, 0
    for task, rows in data:
        generator = stream(config.seed, "weights")
        for part in batches(rows, config.train.evaluation_batch_size, None):
            batch = task.collate(part, encoder, generator)
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            with autocast(model, config.train.precision):
                total += float(task.loss(model, batch))
            targets += task.targets(batch)
    return total / max(targets, 1)
