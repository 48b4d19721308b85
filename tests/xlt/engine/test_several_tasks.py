"""Training of several tasks at once, against plain loops over examples in float64, and what a step leaves untouched."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from tests.conftest import LABELS, WideTagging, sentences
from xlt.data.mix import LoadedSource, Mix, Sampling
from xlt.data.streams import stream
from xlt.engine.activation import LanguageActivation
from xlt.engine.evaluation import evaluate
from xlt.engine.processes import Processes
from xlt.engine.training import Trainer
from xlt.engine.watching import Silence
from xlt.modules import FeatureMixture, load_module
from xlt.tasks.classification import Classification
from xlt.tasks.joint import Joint

# Task -> the languages that it is learned in; tags in fao and size in eng are combinations that nothing learns.
LEARNED = {"tags": ("deu", "eng"), "size": ("deu", "fao")}
DROPOUT, RATE, DECAY, STEPS = 0.4, 5e-3, 0.1, 10
SLOW_METHODS = [pytest.param(name, marks=pytest.mark.slow) for name in ("lora", "lt_sft", "pfeiffer")]


class WideClassification(Classification):
    """Classification whose loss has the model's dtype, so that a float64 model trains in float64 throughout."""

    def loss(self, model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        return F.cross_entropy(self._logits(model, batch), batch["labels"], reduction="sum")


@pytest.fixture(scope="session")
def make_joint(make_method: Callable[..., Any], make_trainer: Callable[..., Trainer]) -> Callable[..., Trainer]:
    """`make_joint("lora")`: a trainer of two tasks, tags of words and the size of a text, in mixed batches."""

    def make(method: str = "flix", *overrides: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Trainer:
        mixed = changes.pop("mixed", True)
        recipe = {"max_steps": STEPS, "evaluate_every_steps": STEPS, "clip_norm": None, "weight_decay": DECAY}
        trainer = make_trainer(
            make_method(method, *overrides),
            dtype=dtype,
            **{**recipe, "batch_size": 5, "learning_rate": RATE, **changes},
        )
        tags = WideTagging("tags", "upos", LABELS, max_length=32, dropout=0.0, metric="accuracy")
        size = WideClassification("size", ["short", "long"], False, 32, 0.0, "macro_f1")
        trainer.task = Joint("joint", {"tags": tags, "size": size})
        torch.manual_seed(1)
        trainer.model.head = trainer.task.head(trainer.model.hidden_size).to(dtype)
        for part, count in (("sources", 14), ("validation", 6)):
            setattr(trainer, part, [_source(trainer, t, code, count) for t in LEARNED for code in LEARNED[t]])
        trainer.mixed_batches = mixed
        trainer.activation = LanguageActivation(trainer.model, {}, ["deu", "eng", "fao"])
        return trainer

    return make


def _source(trainer: Trainer, task: str, language: str, count: int) -> LoadedSource:
    described = {"task": task, "language": language}
    examples = [
        dataclasses.replace(one, label="long" if len(one.words or ()) > 3 else "short")
        for one in sentences(language, count)
    ]
    rows = trainer.task.part(described).features(examples, trainer.encoder)
    return LoadedSource(f"{task}_{language}", language, rows, named=described)


class Loops:
    """Several tasks with FLix as formulas have it: an example after the other, each with dense weights of its own.

    Args:
        trainer: gives the base model and the examples of each step; its method is attached and untrained.
        start: the first factors.
    """

    def __init__(self, trainer: Trainer, start: FeatureMixture) -> None:
        self.trainer = trainer
        self.backbone = copy.deepcopy(trainer.model.backbone)
        self.factors = {
            (feature.name, value, weight, side): by_name[feature.name][side][number].clone().requires_grad_()
            for weight, by_name in start.factors.items()
            for feature in start.features
            for number, value in enumerate(feature.values)
            for side in (0, 1)
        }
        self.weights = list(start.factors)
        self.head = {name: t.clone().requires_grad_() for name, t in start.tensors.items()}
        self.moments: dict[str, tuple[int, Tensor, Tensor]] = {}

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {**{"/".join(map(str, key)): t for key, t in self.factors.items()}, **self.head}

    def logits(self, task: str, row: Mapping[str, Any], features: Mapping[str, str]) -> Tensor:
        """The logits of an example's words, or of the example."""
        tensors = {name: parameter.detach() for name, parameter in self.backbone.named_parameters()}
        for weight in self.weights:
            name = weight.removeprefix("backbone.")
            for feature, value in features.items():
                if (feature, value, weight, 0) in self.factors:
                    b, a = (self.factors[feature, value, weight, side] for side in (1, 0))
                    tensors[name] = tensors[name] + b @ a
        ids = torch.tensor([row["input_ids"]])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        hidden = functional_call(self.backbone, tensors, (), inputs).last_hidden_state[0]
        if task == "tags":
            places = [at for at, label in enumerate(row["labels"]) if label != -100]
            return hidden[places] @ self.head["head.tags.classifier.weight"].T + self.head["head.tags.classifier.bias"]
        inner = torch.tanh(hidden[:1] @ self.head["head.size.dense.weight"].T + self.head["head.size.dense.bias"])
        return inner @ self.head["head.size.classifier.weight"].T + self.head["head.size.classifier.bias"]

    def gradients(self, step: int) -> str:
        """Computes those of a step's mean loss over targets; returns the task of the step."""
        batch = self.trainer._mix("train").batch(step)
        described = [batch.described[0]] * len(batch.features) if len(batch.described) == 1 else batch.described
        (task,) = {one["task"] for one in described}
        on = torch.rand(len(described), 2, generator=stream(1, "features", "train", step)) >= DROPOUT
        total: Any = 0.0
        count = 0
        for number, (row, one) in enumerate(zip(batch.features, described, strict=True)):
            features = {name: one[name] for at, name in enumerate(("language", "task")) if on[number, at]}
            gold = [n for n in row["labels"] if n != -100] if task == "tags" else [row["label"]]
            for logits, label in zip(self.logits(task, row, features), gold, strict=True):
                total = total + logits.exp().sum().log() - logits[label]
                count += 1
        (total / count).backward()
        return task

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Adam with decoupled weight decay, for what has a gradient."""
        rate = RATE * (STEPS - step) / STEPS
        for name, tensor in self.tensors.items():
            if tensor.grad is None:
                continue
            count, first, second = self.moments.get(name, (0, torch.zeros_like(tensor), torch.zeros_like(tensor)))
            count, first = count + 1, 0.9 * first + 0.1 * tensor.grad
            second = 0.999 * second + 0.001 * tensor.grad**2
            self.moments[name] = (count, first, second)
            tensor *= 1 - rate * DECAY
            tensor -= rate * (first / (1 - 0.9**count)) / ((second / (1 - 0.999**count)).sqrt() + 1e-8)
            tensor.grad = None


def exported(trainer: Trainer, module_header: Callable[..., Any]) -> FeatureMixture:
    module = trainer.method.export(trainer.model, module_header(kind="feature_mixture", task="joint"))
    assert isinstance(module, FeatureMixture)
    return module


@pytest.fixture(scope="session")
def learned(
    make_joint: Callable[..., Trainer], module_header: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trainer, FeatureMixture, Loops, list[str]]:
    """The trainer, its module, and the loops, after ten steps of each; and the tasks of the steps."""
    words = (f"method.feature_dropout={DROPOUT}",)
    untrained = make_joint("flix", *words)
    untrained.attach_first_phase()
    loops = Loops(untrained, exported(untrained, module_header))
    tasks = []
    for step in range(STEPS):
        tasks.append(loops.gradients(step))
        loops.update(step)
    trainer = make_joint("flix", *words)
    trainer.train(tmp_path_factory.mktemp("joint"), Silence())
    return trainer, exported(trainer, module_header), loops, tasks


def test_ten_steps_of_two_tasks_are_those_of_plain_loops(learned: tuple[Trainer, FeatureMixture, Loops, Any]) -> None:
    _, module, loops, tasks = learned
    assert set(tasks) == {"tags", "size"}
    for (name, value, weight, side), expected in loops.factors.items():
        number = next(f for f in module.features if f.name == name).values.index(value)
        found = module.factors[weight][name][side][number]
        torch.testing.assert_close(found, expected.detach(), atol=1e-8, rtol=0, msg=f"{weight}, {name}={value}")
    assert (
        module.tensors.keys()
        == loops.head.keys()
        == {f"head.{name}" for name in ("tags.classifier.weight", "tags.classifier.bias")}
        | {f"head.size.{layer}.{kind}" for layer in ("dense", "classifier") for kind in ("weight", "bias")}
    )
    for name, expected in loops.head.items():
        torch.testing.assert_close(module.tensors[name], expected.detach(), atol=1e-8, rtol=0, msg=name)


@pytest.mark.parametrize("features", [("tags", "eng"), ("tags", "fao"), ("size", "eng"), ("size", "xho")])
@torch.no_grad()
def test_seen_and_unseen_combinations_and_a_new_language_have_the_outputs_of_plain_loops(
    features: tuple[str, str], learned: Any, make_joint: Callable[..., Trainer], tmp_path: Path
) -> None:
    """Also with the stored module in a fresh model, and in a batch of several combinations."""
    trainer, module, loops, _ = learned
    task, language = features
    described = {"task": task, "language": language}
    module.save(tmp_path / "m.safetensors")
    fresh = make_joint().model.eval()
    load_module(tmp_path / "m.safetensors").for_features(**described).apply(fresh)
    part = trainer.task.part(described)
    rows = _source(trainer, task, "fao", 4).features
    batch = part.collate(rows, trainer.encoder, stream(0, "x"))
    trainer.model.eval()
    trainer.method.examples([described, *[{"task": task, "language": "deu"}] * (len(rows) - 1)])
    for model, first in ((fresh, len(rows)), (trainer.model, 1)):
        logits = part._logits(model, batch)  # type: ignore[attr-defined]
        found = (logits[0] if task == "tags" else logits).split(
            [sum(n != -100 for n in row["labels"]) if task == "tags" else 1 for row in rows]
        )
        for row, own in list(zip(rows, found, strict=True))[:first]:
            torch.testing.assert_close(own, loops.logits(task, row, described), atol=1e-7, rtol=0)


def test_a_head_and_the_features_that_a_step_has_not_stay_as_they_are_bit_for_bit(
    make_joint: Callable[..., Trainer], tmp_path: Path, bits: Any
) -> None:
    """With weight decay and momentum, in one process."""
    trainer = make_joint("full", dtype=torch.float32)
    seen: list[tuple[str, dict[str, bytes]]] = []
    idle: list[str] = []

    class Watcher(Silence):
        def metrics(self, phase: str, step: int, values: Mapping[str, float | None]) -> None:
            if "loss" in values:
                idle.append(
                    {"head.size": "tags", "head.tags": "size"}[".".join(next(iter(trainer._idle)).split(".")[:2])]
                )
                heads = {n: p for n, p in trainer.method.trainable().items() if n.startswith("head.")}
                seen.append((idle[-1], bits(heads)))

    before = None
    trainer.train(tmp_path, Watcher())
    for task, now in seen:
        if before is not None:
            moved = {name.split(".")[1] for name in now if now[name] != before[name]}
            assert moved == {task}
        before = now
    assert set(idle) == {"tags", "size"}


@pytest.mark.parametrize("method", ["flix", "full", *SLOW_METHODS])
def test_micro_batches_and_processes_do_not_change_what_is_learned(
    method: str, make_joint: Callable[..., Trainer], in_two_processes: Callable[..., Any], tmp_path: Path
) -> None:
    def train(processes: Processes, size: int | None = None) -> dict[str, Tensor]:
        changes = {"max_steps": 6, "evaluate_every_steps": 6, "dense_max_steps": 4}
        trainer = make_joint(method, processes=processes, micro_batch_size=size, **changes)
        trainer.train(tmp_path / f"{processes.count}-{size}", Silence())
        return {name: parameter.detach() for name, parameter in trainer.method.trainable().items()}

    alone = train(Processes())
    for other in (train(Processes(), 2), *in_two_processes(train, tmp_path)):
        for name, expected in alone.items():
            torch.testing.assert_close(other[name], expected, atol=1e-8, rtol=0, msg=name)  # the order of sums


@pytest.mark.parametrize("method", ["flix", "full", *SLOW_METHODS, pytest.param("spiel_ag", marks=pytest.mark.slow)])
def test_killed_and_resumed_it_ends_in_the_same_bits(
    method: str, make_joint: Callable[..., Trainer], records: Any, killed: Any, bits: Any, tmp_path: Path
) -> None:
    def train(folder: Path, watcher: Any) -> Any:
        changes = {"max_steps": 6, "evaluate_every_steps": 3, "save_every_seconds": 0, "dense_max_steps": 2}
        trainer = make_joint(method, dtype=torch.float32, **changes)
        result = trainer.train(folder, watcher)
        return bits(trainer.method.trainable()), result["best/mean"], result["best/step"]

    uninterrupted = train(tmp_path / "whole", Silence())
    kept: list[Any] = []
    with pytest.raises(killed):
        train(tmp_path / "killed", records(kept, 5))
    assert train(tmp_path / "killed", records(kept)) == uninterrupted


def test_the_checkpoint_is_chosen_by_the_mean_over_tasks_of_the_mean_over_languages(
    make_joint: Callable[..., Trainer], records: Any, tmp_path: Path
) -> None:
    kept: list[Any] = []
    trainer = make_joint("lora", max_steps=1, evaluate_every_steps=1)
    best = trainer.train(tmp_path, records(kept))["best/mean"]
    (found,) = [values for _, _, values in kept if "validation/mean" in values]
    means = {}
    for task, metric in (("tags", "accuracy"), ("size", "macro_f1")):
        own = [source for source in trainer.validation if source.named["task"] == task]
        part = trainer.task.part({"task": task})
        each = [evaluate(trainer.model, part, [one], trainer.encoder, 16, "fp32")[metric] for one in own]
        means[task] = sum(each) / len(each)
        assert found[f"validation/{task}/{metric}"] == pytest.approx(means[task])
    assert best == found["validation/mean"] == pytest.approx(sum(means.values()) / 2)


def test_a_batch_is_of_one_task_and_an_epoch_has_every_example_once(make_joint: Callable[..., Trainer]) -> None:
    trainer = make_joint()
    mix = trainer._mix("train")
    seen: dict[int, int] = {}
    languages = set()
    for step in range(mix.steps_per_epoch):
        batch = mix.batch(step)
        assert len({one["task"] for one in batch.described}) == 1
        languages.add(len({one["language"] for one in batch.described}))
        for row in batch.features:
            seen[id(row)] = seen.get(id(row), 0) + 1
    assert 2 in languages
    assert sorted(seen) == sorted(id(row) for source in trainer.sources for row in source.features)
    assert set(seen.values()) == {1}
    again = trainer._mix("train")  # out of order, as a resumed run asks
    assert again.batch(7).features == mix.batch(7).features


def test_sources_alone_in_a_batch_are_of_one_task_too(make_joint: Callable[..., Trainer], tmp_path: Path) -> None:
    trainer = make_joint("lora", mixed=False)
    assert type(trainer._mix("train")) is Mix
    assert 0 < trainer.train(tmp_path, Silence())["best/mean"] <= 100


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(0.0, None, 1.0), {"a": 150 / 190, "b": 40 / 190}),
        (Sampling(0.0, None, 0.5), {"a": 150**0.5, "b": 40**0.5}),
        (Sampling(1.0, None, 0.0), {"a": 0.5, "b": 0.5}),
        (Sampling(1.0, None), {"a": 150 / 190, "b": 40 / 190}),
        (Sampling(1.0, None, None, {"task": {"a": 3}, "language": {"eng": 2}}), {"a": 3 + 6, "b": 2}),
    ],
)
def test_tasks_are_drawn_by_size_with_an_exponent_alike_or_as_given(
    sampling: Sampling, expected: dict[str, float]
) -> None:
    sizes = {("a", "deu"): 100, ("a", "eng"): 50, ("b", "eng"): 40}
    sources = [
        LoadedSource(f"{task}_{code}", code, [{"input_ids": [1]}] * size, named={"task": task})
        for (task, code), size in sizes.items()
    ]
    weights = sampling.weights(sources)
    total = float(weights.sum())
    for task, share in expected.items():
        own = sum(float(w) for w, one in zip(weights, sources, strict=True) if one.named["task"] == task)
        assert own / total == pytest.approx(share / sum(expected.values()))
    if sampling.given is None:  # within a task, the sources' own exponent counts
        assert float(weights[0] / weights[1]) == pytest.approx(2**sampling.exponent)


def test_drawn_tasks_come_as_often_as_their_weights_say(make_joint: Callable[..., Trainer]) -> None:
    trainer = make_joint()
    trainer.sampling = Sampling(0.0, None, None, {"task": {"tags": 3.0}})
    mix = trainer._mix("train")
    count = sum(mix.batch(step).described[0]["task"] == "tags" for step in range(400))
    assert 0.69 < count / 400 < 0.81  # 0.75, and a standard deviation of 0.022
