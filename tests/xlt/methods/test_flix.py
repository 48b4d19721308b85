"""FLix against plain loops over examples and features in float64, and what its features, dropout and layers do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from xlt.data.streams import stream
from xlt.engine.processes import Processes
from xlt.engine.training import Trainer
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.methods.method import Budget, MicroBatch, Setting
from xlt.modules import FeatureMixture, load_module

LANGUAGES = ("deu", "eng", "fao")
NAMED = {"deu": {"task": "pos", "domain": "news"}, "eng": {"task": "pos"}, "fao": {"task": "tags", "domain": "web"}}
DROPOUT = 0.4
RATE, DECAY, STEPS = 5e-3, 0.1, 10


@pytest.fixture(scope="session")
def make_mixed(make_method: Callable[..., Any], make_trainer: Callable[..., Trainer]) -> Callable[..., Trainer]:
    """A trainer in float64 of mixed batches in three languages, two tasks (of the same labels) and two domains."""

    def make(*overrides: str, **changes: Any) -> Trainer:
        method = make_method("flix", f"method.feature_dropout={DROPOUT}", "method.rank=1", *overrides)
        recipe = {"max_steps": STEPS, "evaluate_every_steps": STEPS, "clip_norm": None, "weight_decay": DECAY}
        recipe |= {"batch_size": 5, "learning_rate": RATE, **changes}
        trainer = make_trainer(method, languages=LANGUAGES, **{"dtype": torch.float64, **recipe})
        trainer.mixed_batches = True
        for part in ("sources", "validation"):
            sources = [dataclasses.replace(one, named=NAMED[one.language]) for one in getattr(trainer, part)]
            setattr(trainer, part, sources)
        return trainer

    return make


class Reference:
    """FLix as the paper's Eq. 2 has it: each example has a dense weight of its own, summed over its features.

    Args:
        trainer: gives the base model, the task, and the examples of each step; its method is attached and untrained.
        start: the first factors.
    """

    def __init__(self, trainer: Trainer, start: FeatureMixture) -> None:
        self.trainer, self.model = trainer, trainer.model
        self.names = sorted(feature.name for feature in start.features if feature.rank)
        self.factors = {
            (feature.name, value, weight, side): by_name[feature.name][side][number].clone().requires_grad_()
            for weight, by_name in start.factors.items()
            for feature in start.features
            if feature.rank
            for number, value in enumerate(feature.values)
            for side in (0, 1)
        }
        self.weights = list(start.factors)
        self.head = {
            name: p.detach().clone().requires_grad_() for name, p in self.model.named_parameters() if "head" in name
        }
        self.moments: dict[int, tuple[int, Tensor, Tensor]] = {}

    def loss(self, batch: Mapping[str, Tensor], features: Mapping[str, str]) -> Tensor:
        """The loss of a batch of one example."""
        tensors: dict[str, Tensor] = {f"backbone.{n}": p.detach() for n, p in self.model.backbone.named_parameters()}
        for weight in self.weights:
            total = tensors[weight]
            for name, value in features.items():
                total = total + self.factors[name, value, weight, 1] @ self.factors[name, value, weight, 0]
            tensors[weight] = total
        whole = _Loss(self.model, self.trainer.task)
        return functional_call(whole, {f"model.{n}": t for n, t in {**tensors, **self.head}.items()}, (batch,))

    def gradients(self, step: int) -> None:
        batch = self.trainer._mix("train").batch(step)
        described = [batch.described[0]] * len(batch.features) if len(batch.described) == 1 else batch.described
        on = torch.rand(len(described), len(self.names), generator=stream(1, "features", "train", step)) >= DROPOUT
        total: Any = 0.0
        targets = 0.0
        for row, (features, one) in enumerate(zip(batch.features, described, strict=True)):
            alone = self.trainer.task.collate([features], self.trainer.encoder, stream(0, "x"))
            active = {n: one[n] for column, n in enumerate(self.names) if n in one and on[row, column]}
            total = total + self.loss(alone, active)
            targets += self.trainer.task.targets(alone)
        (total / targets).backward()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Adam with decoupled weight decay, for what has a gradient."""
        rate = RATE * (STEPS - step) / STEPS
        for tensor in (*self.factors.values(), *self.head.values()):
            if tensor.grad is None:
                continue
            count, first, second = self.moments.get(id(tensor), (0, torch.zeros_like(tensor), torch.zeros_like(tensor)))
            count, first = count + 1, 0.9 * first + 0.1 * tensor.grad
            second = 0.999 * second + 0.001 * tensor.grad**2
            self.moments[id(tensor)] = (count, first, second)
            tensor *= 1 - rate * DECAY
            tensor -= rate * (first / (1 - 0.9**count)) / ((second / (1 - 0.999**count)).sqrt() + 1e-8)
            tensor.grad = None


class _Loss(torch.nn.Module):
    def __init__(self, model: Any, task: Any) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.task.loss(self.model, batch)


def exported(trainer: Trainer, module_header: Callable[..., Any]) -> FeatureMixture:
    module = trainer.method.export(trainer.model, module_header(kind="feature_mixture", task="several"))
    assert isinstance(module, FeatureMixture)
    return module


def assert_equal(module: FeatureMixture, reference: Reference) -> None:
    """All factors are equal to rounding; Adam divides by gradients as small as 1e-8."""
    for (name, value, weight, side), expected in reference.factors.items():
        number = next(f for f in module.features if f.name == name).values.index(value)
        found = module.factors[weight][name][side][number]
        torch.testing.assert_close(found, expected.detach(), atol=1e-8, rtol=0, msg=f"{weight}, {name}={value}")
    for name, expected in reference.head.items():
        torch.testing.assert_close(module.tensors[name], expected.detach(), atol=1e-8, rtol=0)


@pytest.mark.parametrize("zero_factor", ["a", "b"])
def test_ten_steps_of_mixed_batches_with_dropout_are_those_of_plain_loops(
    zero_factor: str, make_mixed: Callable[..., Trainer], module_header: Callable[..., Any], tmp_path: Path
) -> None:
    untrained = make_mixed(f"method.zero_factor={zero_factor}")
    untrained.attach_first_phase()
    start = exported(untrained, module_header)
    untrained.method._active = None
    reference = Reference(untrained, start)
    moved = set()
    for step in range(STEPS):
        reference.gradients(step)
        moved |= {key[:2] for key, tensor in reference.factors.items() if tensor.grad is not None}
        reference.update(step)
    assert {("language", language) for language in LANGUAGES} | {("task", "pos"), ("domain", "web")} <= moved
    trainer = make_mixed(f"method.zero_factor={zero_factor}")
    trainer.train(tmp_path, Silence())
    assert_equal(exported(trainer, module_header), reference)
    assert [one.values for one in start.features] == [("news", "web"), LANGUAGES, ("pos", "tags")]


def test_gradients_of_one_step_are_those_of_plain_loops(
    make_mixed: Callable[..., Trainer], module_header: Callable[..., Any]
) -> None:
    trainer = make_mixed()
    trainer.attach_first_phase()
    with torch.no_grad():  # so that both factors have gradients
        for flat in trainer.method._flat:
            flat.add_(torch.randn(flat.shape, generator=stream(5, "start")), alpha=0.1)
    reference = Reference(trainer, exported(trainer, module_header))
    reference.gradients(3)
    batch = trainer._mix("train").batch(3)
    whole = trainer.task.collate(batch.features, trainer.encoder, stream(0, "x"))
    part = MicroBatch(range(len(batch.features)), len(batch.features), stream(1, "features", "train", 3))
    trainer.method.examples(batch.described, part)
    loss = trainer.method.loss(trainer.model, whole, trainer.task.loss) / trainer.task.targets(whole)
    loss.backward()
    for (name, value), number in trainer.method._number.items():
        expected = [t.grad for key, t in reference.factors.items() if key[:2] == (name, value)]
        found = trainer.method._flat[number].grad
        untouched = f"adapters.features.{number}" in trainer.method.untouched()
        assert untouched == (found is None) == all(one is None for one in expected)
        if found is not None:
            flat = torch.cat([one.reshape(-1) for one in expected if one is not None])
            torch.testing.assert_close(found, flat, atol=1e-10, rtol=0)  # sums in float64 of values near 1


def test_micro_batches_and_processes_do_not_change_what_is_learned(
    make_mixed: Callable[..., Trainer], in_two_processes: Callable[..., Any], tmp_path: Path
) -> None:
    def train(processes: Processes, size: int | None = None) -> dict[str, Tensor]:
        trainer = make_mixed(processes=processes, micro_batch_size=size, max_steps=5, evaluate_every_steps=5)
        trainer.train(tmp_path / f"{processes.count}-{size}", Silence())
        return {name: parameter.detach() for name, parameter in trainer.method.trainable().items()}

    alone = train(Processes())
    for other in (train(Processes(), 2), *in_two_processes(train, tmp_path)):
        for name, expected in alone.items():
            torch.testing.assert_close(other[name], expected, atol=1e-9, rtol=0, msg=name)  # the order of sums


def test_killed_and_resumed_it_ends_in_the_same_bits(
    make_mixed: Callable[..., Trainer], records: Any, killed: Any, bits: Any, tmp_path: Path
) -> None:
    def train(folder: Path, watcher: Any) -> Any:
        trainer = make_mixed(max_steps=6, evaluate_every_steps=3, save_every_seconds=0, dtype=torch.float32)
        trainer.train(folder, watcher)
        return bits(trainer.method.trainable())

    uninterrupted = train(tmp_path / "whole", Silence())
    kept: list[Any] = []
    with pytest.raises(killed):
        train(tmp_path / "killed", records(kept, 4))
    assert train(tmp_path / "killed", records(kept)) == uninterrupted


@torch.no_grad()
def test_a_stored_module_computes_for_any_combination_what_the_trained_model_does(
    make_mixed: Callable[..., Trainer], module_header: Callable[..., Any], tmp_path: Path
) -> None:
    """A seen combination, one that was never trained on, a new language, and a batch of all of them."""
    trainer = make_mixed(learning_rate=0.05)
    with torch.enable_grad():
        trainer.train(tmp_path, Silence())
    exported(trainer, module_header).save(tmp_path / "m.safetensors")
    mixture = load_module(tmp_path / "m.safetensors")
    asked = [
        {"task": "pos", "language": "deu", "domain": "news"},
        {"task": "tags", "language": "eng", "domain": "news"},
        {"task": "pos", "language": "xho"},
    ]
    rows = trainer.sources[0].features[:3]
    batch = trainer.task.collate(rows, trainer.encoder, stream(0, "x"))
    inputs = batch["input_ids"], batch["attention_mask"]
    trainer.model.eval()
    trainer.method.examples(asked)
    together = trainer.model.encode(*inputs)
    outputs = []
    for number, features in enumerate(asked):
        trainer.method.examples([features])
        trained = trainer.model.encode(*inputs)
        fresh = make_mixed().model.eval()
        mixture.for_features(**features).apply(fresh)
        torch.testing.assert_close(fresh.encode(*inputs), trained, atol=1e-10, rtol=0)
        torch.testing.assert_close(together[number], trained[number], atol=1e-10, rtol=0)
        outputs.append(trained[0])
    assert all((one - other).abs().max() > 1e-4 for one, other in zip(outputs, outputs[1:] + outputs[:1], strict=True))


def attached(make_method: Any, make_trainer: Any, languages: tuple[str, ...], *overrides: str, **changes: Any) -> Any:
    """A trainer whose method is attached for a task in some languages."""
    trainer = make_trainer(make_method("flix", *overrides), **changes)
    described = [{"task": "pos", "language": language} for language in languages]
    (phase,) = trainer.method.phases(Budget(4, 1, None, 1, 1e-3))
    setting = Setting(False, lambda *name: stream(1, *name), languages=languages, described=described)
    trainer.method.attach(trainer.model, phase, setting)
    return trainer


def test_an_unused_feature_and_its_moments_keep_their_bits_under_weight_decay(
    make_method: Any, make_trainer: Any, bits: Any
) -> None:
    trainer = attached(make_method, make_trainer, LANGUAGES, "method.feature_dropout=0")
    method, rows = trainer.method, trainer.sources[0].features[:4]
    batch = trainer.task.collate(rows, trainer.encoder, stream(0, "x"))
    optimizer = method.optimizer(method.trainable(), 1e-2, 0.5)
    flat = {language: method._flat[method._number["language", language]] for language in LANGUAGES}

    def steps(language: str, count: int) -> None:
        for _ in range(count):
            part = MicroBatch(range(4), 4, stream(1, "x"))
            method.examples([{"task": "pos", "language": language}], part)
            method.loss(trainer.model, batch, trainer.task.loss).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def kept() -> dict[str, bytes]:
        state = optimizer.state[flat["deu"]]
        return bits(
            {"deu": flat["deu"], "fao": flat["fao"], **{slot: state[slot] for slot in ("exp_avg", "exp_avg_sq")}}
        )

    steps("deu", 3)
    before, eng = kept(), flat["eng"].detach().clone()
    steps("eng", 100)
    assert kept() == before and flat["fao"] not in optimizer.state
    assert not torch.equal(flat["eng"], eng)


def test_the_cost_is_that_of_the_active_rank_however_many_features_there_are(
    make_method: Any, make_trainer: Any
) -> None:
    """A batch of 8 examples, in one language or in eight, of 8 or of 200 that the run knows; the trained head aside."""
    several = tuple(f"l{number}" for number in range(8))

    def flops(known: tuple[str, ...], used: tuple[str, ...]) -> int:
        trainer = attached(make_method, make_trainer, known, "method.feature_dropout=0")
        batch = trainer.task.collate([trainer.sources[0].features[0]] * 8, trainer.encoder, stream(0, "x"))
        described = [{"task": "pos", "language": language} for language in used]
        with FlopCounterMode(display=False) as counter:
            trainer.method.examples(described, MicroBatch(range(8), 8, stream(1, "x")))
            trainer.method.loss(trainer.model, batch, trainer.task.loss).backward()
        with_gradient = sum(flat.grad is not None for flat in trainer.method._flat)
        assert with_gradient == 1 + len(set(used))
        return int(counter.get_total_flops())

    one, eight = flops(several, several[:1]), flops(several, several)
    assert eight <= 1.2 * one  # the gathering of factors, on a model of width 32 with texts of a few tokens
    many = tuple(f"l{number}" for number in range(200))
    assert flops(many, several) == eight and flops(many, several[:1]) == one


def draws(make_method: Any, make_trainer: Any, *overrides: str) -> Tensor:
    """Which of (examples, features) are on in steps of 40 examples in two languages: (steps, 40, 2) bool."""
    trainer = attached(make_method, make_trainer, ("deu", "eng"), *overrides)
    method = trainer.method
    numbers = torch.tensor(
        [[method._number["language", code], method._number["task", "pos"]] for code in ("deu", "eng")]
    )
    whole = numbers.repeat(20, 1)
    return torch.stack([method._dropped(whole, stream(step, "draw")) >= 0 for step in range(200)])


def test_each_feature_of_each_example_is_off_by_itself(make_method: Any, make_trainer: Any) -> None:
    on = draws(make_method, make_trainer).double()
    assert abs(on.mean() - 0.3) < 0.01  # 16,000 draws: four deviations are 0.0145
    both = (on[..., 0] * on[..., 1]).mean()
    assert abs(both - 0.09) < 0.02
    neighbours = (on[:, 1:, 1] * on[:, :-1, 1]).mean()
    assert abs(neighbours - 0.09) < 0.02


def test_with_keep_one_no_example_loses_all_its_features(make_method: Any, make_trainer: Any) -> None:
    on = draws(make_method, make_trainer, "method.keep_one=true")
    assert on.any(-1).all()
    assert torch.all((on.double().mean((0, 1)) - (0.3 + 0.49 / 2)).abs() < 0.02)


@pytest.mark.parametrize("keep_one", ["false", "true"])
def test_dropped_by_batch_all_examples_of_a_step_lose_a_feature_together(
    keep_one: str, make_method: Any, make_trainer: Any
) -> None:
    on = draws(make_method, make_trainer, "method.drop_by=batch", f"method.keep_one={keep_one}")
    assert torch.equal(on, on[:, :2].repeat(1, 20, 1))  # those of one language are alike
    if keep_one == "true":
        assert on.any(-1).all()
        return
    assert torch.equal(on[..., 1], on[:, :1, 1].expand(-1, 40))  # the task's is on or off for all languages
    assert abs(on[:, :2, 0].double().mean() - 0.3) < 0.1  # 400 draws


def test_nothing_is_dropped_in_validation(make_method: Any, make_trainer: Any) -> None:
    trainer = attached(make_method, make_trainer, ("deu", "eng"), "method.feature_dropout=0.9")
    trainer.method.examples([{"task": "pos", "language": "deu"}])
    assert len(trainer.method._active._factors) == 2


def test_only_the_named_layers_are_adapted(make_method: Any, make_trainer: Any, module_header: Any) -> None:
    trainer = attached(make_method, make_trainer, ("eng",), "method.layers=[query,output.dense]")
    module = exported(trainer, module_header)
    ends = {name.removesuffix(".weight").split(".layer.")[1][2:] for name in module.factors}
    assert ends == {"attention.self.query", "attention.output.dense", "output.dense"}
    with pytest.raises(UsageError, match=r"method.layers=q_proj: .*query, key, value, dense"):
        attached(make_method, make_trainer, ("eng",), "method.layers=[q_proj]")


def test_a_sixth_feature_needs_nothing_but_its_name_in_a_source(make_method: Any) -> None:
    method = make_method("flix", "method.rank=3")
    learned = [{"task": "pos", "language": "eng"}, {"task": "pos", "language": "eng", "domain": "news"}]
    assert [(f.name, f.rank, f.values) for f in method._features(learned)] == [
        ("domain", 3, ("news",)),
        ("language", 2, ("eng",)),
        ("task", 4, ("pos",)),
    ]


@pytest.mark.parametrize(
    ("overrides", "asked", "facts"),
    [
        ([], {"task": "ner", "language": "eng"}, ["data.evaluation.x", "task=ner", "pos"]),
        ([], {"task": "pos", "dialect": "kano"}, ["data.evaluation.x", "dialect=kano", "language, task"]),
        (["+method.ranks.domain=2"], {"task": "pos", "language": "fao"}, ["method.ranks.domain", "language, task"]),
        (["method.ranks={task: 0, language: 0}"], {"task": "pos"}, ["method.ranks", "0"]),
        (["method.ranks={task: 0, language: 2}"], {"task": "pos", "language": "fao"}, ["data.evaluation.x", "fao"]),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_loaded(
    overrides: list[str], asked: dict[str, str], facts: list[str], make_method: Any
) -> None:
    learned = [{"task": "pos", "language": "eng"}]
    (line,) = make_method("flix", *overrides).feature_faults(learned, {"data.evaluation.x": asked})
    assert all(fact in line for fact in facts), line


def test_a_new_language_needs_no_feature_of_its_own(make_method: Any) -> None:
    learned = [{"task": "pos", "language": "eng"}]
    assert make_method("flix").feature_faults(learned, {"x": {"task": "pos", "language": "fao"}}) == []


def test_a_feature_of_all_training_sources_must_be_named_in_an_evaluation_too(make_method: Any) -> None:
    """Else a shared feature would be off there, and nobody would know."""
    learned = [{"task": "pos", "language": code, "shared": "all"} for code in ("eng", "deu")]
    method = make_method("flix")
    (line,) = method.feature_faults(learned, {"data.evaluation.x": {"task": "pos", "language": "fao"}})
    assert all(fact in line for fact in ("data.evaluation.x.features", "shared")), line
    assert method.feature_faults(learned, {"x": {"task": "pos", "language": "fao", "shared": "new"}}) == []
    some = [learned[0], {"task": "pos", "language": "deu"}]
    assert method.feature_faults(some, {"x": {"task": "pos", "language": "fao"}}) == []
    assert method.feature_faults(learned[:1], {"data.benchmarks.x": {"task": "pos", "shared": "all"}}) == []
