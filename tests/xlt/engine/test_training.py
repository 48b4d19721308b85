"""The loop: how long, how fast, what is selected, and what happens when it is stopped or goes wrong."""

from __future__ import annotations

import itertools
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf, SCMode

from xlt.compose import compose, hydra_ready
from xlt.data.mix import LoadedSource, Mix
from xlt.data.streams import stream
from xlt.engine.build import build_method
from xlt.engine.training import Interrupted, Trainer
from xlt.engine.watching import Silence
from xlt.modules import Entries, SparseDelta


def _validations(kept: list[tuple[str, int, dict[str, float]]], phase: str = "train") -> list[int]:
    return [
        step for name, step, values in kept if name == phase and any(key.startswith("validation/") for key in values)
    ]


def _steps(kept: list[tuple[str, int, dict[str, float]]], value: str) -> list[float]:
    return [values[value] for _, _, values in kept if value in values]


def test_the_rate_falls_linearly_to_zero_over_each_phase(make_trainer, make_method, records, tmp_path: Path) -> None:
    """Thesis §4.4.2: an initial rate, linearly reduced to 0."""
    watcher = records()
    make_trainer(make_method("lt_sft"), learning_rate=0.4, dense_learning_rate=0.3).train(tmp_path, watcher)
    assert _steps(watcher.kept, "rate") == pytest.approx([0.3, 0.2, 0.1, 0.4, 0.3, 0.2, 0.1])


def test_warm_up_rises_over_its_share_of_the_steps(make_trainer, make_method, records, tmp_path: Path) -> None:
    watcher = records()
    make_trainer(make_method("full"), learning_rate=1e-3, warmup_fraction=0.3, max_steps=10).train(tmp_path, watcher)
    rates = [1000 * rate for rate in _steps(watcher.kept, "rate")]
    assert rates == pytest.approx([1 / 4, 2 / 4, 3 / 4, *(k / 7 for k in (7, 6, 5, 4, 3, 2, 1))])


@pytest.mark.parametrize("name", ["full", "lt_sft", "spiel_ag", "spiel_ma", "mad_x"])
def test_the_head_may_have_a_rate_of_its_own(name: str, make_trainer, make_method, tmp_path: Path) -> None:
    """Adam's first step is as long as the rate, SM3's at most; a step of 1e-9 is lost in the head's float32."""
    moved = {}
    for rate in (None, 1e-9):
        trainer = make_trainer(
            make_method(name), learning_rate=1e-2, head_learning_rate=rate, max_steps=1, dense_max_steps=1
        )
        trainer.method.steps_fault = lambda _: None  # in one step SpIEL replaces nothing, which is refused otherwise
        before = {key: parameter.detach().clone() for key, parameter in trainer.model.named_parameters()}
        trainer.train(tmp_path / str(rate), Silence())
        trainer.method.write()
        now = dict(trainer.model.named_parameters())
        change = {key: float((now[key].detach() - before[key]).abs().max()) for key in before}
        head = max(change[key] for key in change if key.startswith("head."))
        moved[rate] = head, max(change[key] for key in change if not key.startswith("head."))
    assert moved[None][0] > 1e-3 and moved[1e-9][0] < 1e-6
    assert moved[1e-9][1] == pytest.approx(moved[None][1], rel=1e-5)


def test_the_loss_of_a_step_is_the_mean_over_its_targets(make_trainer, make_method, records, tmp_path: Path) -> None:
    watcher = records()
    make_trainer(make_method("full"), micro_batch_size=3, dtype=torch.float64).train(tmp_path, watcher)
    plain = make_trainer(make_method("full"), dtype=torch.float64)
    mix = Mix(list(plain.sources), 4, 1, "train")
    batch = plain.task.collate(mix.batch(0).features, plain.encoder, stream(0))
    first = watcher.kept[0][2]
    assert first["targets"] == plain.task.targets(batch)
    # In float64; batches of other sizes may be added in another order.
    assert first["loss"] == pytest.approx(
        float(plain.task.loss(plain.model, batch).detach()) / first["targets"], rel=1e-12
    )


def test_gradients_are_clipped_at_their_norm(make_trainer, make_method, records, tmp_path: Path) -> None:
    weights = []
    for number, limit in enumerate((None, 1e9, 1e-9)):
        watcher, trainer = records(), make_trainer(make_method("full"), clip_norm=limit, learning_rate=1e-2)
        trainer.train(tmp_path / str(number), watcher)
        assert _steps(watcher.kept, "gradient_norm")[0] > 0.1
        weights.append(trainer.model.head.classifier.weight.detach())
    fresh = make_trainer(make_method("full")).model.head.classifier.weight
    assert torch.equal(weights[0], weights[1])
    # Adam divides by sqrt(v) + 1e-8: gradients clipped to 1e-9 hardly move anything.
    assert (weights[2] - fresh).abs().max() < 0.2 * (weights[0] - fresh).abs().max()


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"evaluate_every_steps": 3, "max_steps": 7}, [3, 6, 7]),
        ({"evaluate_every_steps": 100, "max_steps": 4}, [4]),
        # 14 examples in batches of 4: 4 steps an epoch.
        ({"evaluate_every_steps": None, "evaluate_every_epochs": 1.0, "max_steps": 9}, [4, 8, 9]),
        ({"evaluate_every_steps": None, "evaluate_every_epochs": 0.5, "max_steps": 5}, [2, 4, 5]),
        ({"evaluate_every_steps": None, "evaluate_every_epochs": 0.01, "max_steps": 2}, [1, 2]),
    ],
)
def test_it_validates_at_the_interval_and_at_the_end_of_a_phase(
    about: dict[str, Any], expected: list[int], make_trainer, make_method, records, tmp_path: Path
) -> None:
    watcher = records()
    make_trainer(make_method("bitfit"), **about).train(tmp_path, watcher)
    assert _validations(watcher.kept) == expected


@pytest.mark.parametrize(
    ("kind", "metric", "values", "best"),
    [
        ("tagging", "accuracy", [10.0, 30.0, 20.0], 2),
        ("tagging", "accuracy", [10.0, 10.0, 10.0], 1),
        ("mlm", "loss", [3.0, 1.0, 2.0], 2),
        ("mlm", "loss", [3.0, 2.0, 1.0], 3),
    ],
)
def test_the_model_ends_in_the_checkpoint_with_the_best_metric(
    kind: str, metric: str, values: list[float], best: int, make_trainer, make_method, tmp_path: Path, bits
) -> None:
    """Of equal ones the first; smaller is better where the task says so."""
    trainer = make_trainer(make_method("full"), kind, max_steps=3, evaluate_every_steps=1)
    seen = []

    def evaluate(_: Any) -> dict[str, float]:
        seen.append(bits(trainer.model.state_dict()))
        return {metric: values[len(seen) - 1]}

    trainer._evaluate = evaluate
    summary = trainer.train(tmp_path, Silence())
    assert bits(trainer.model.state_dict()) == seen[best - 1]
    assert len({str(state) for state in seen}) == 3
    assert (summary[f"best/{metric}"], summary["best/step"]) == (values[best - 1], best)


def test_the_validation_metric_is_the_mean_over_languages(make_trainer, make_method, records, tmp_path: Path) -> None:
    trainer, watcher = make_trainer(make_method("bitfit"), languages=("eng", "deu"), max_steps=2), records()
    scores = {"eng": 90.0, "deu": 10.0}
    trainer._evaluate = lambda sources: {"accuracy": scores[sources[0].language]}
    trainer.train(tmp_path, watcher)
    assert _steps(watcher.kept, "validation/accuracy") == [50.0]


def test_a_loss_that_is_not_finite_stops_the_run_with_the_step(make_trainer, make_method, tmp_path: Path) -> None:
    trainer = make_trainer(make_method("full"))
    loss = trainer.task.loss
    calls = iter(range(100))
    trainer.task.loss = lambda model, batch: loss(model, batch) * (math.nan if next(calls) == 2 else 1.0)
    with pytest.raises(FloatingPointError, match=r"phase train, step 3: the loss is nan; lower train\.learning_rate"):
        trainer.train(tmp_path, Silence())


def test_a_validation_metric_that_is_not_finite_stops_the_run(make_trainer, make_method, tmp_path: Path) -> None:
    trainer = make_trainer(make_method("full"), "mlm")
    trainer._evaluate = lambda sources: {"loss": math.inf}
    with pytest.raises(FloatingPointError, match="phase train, step 2: validation loss is inf"):
        trainer.train(tmp_path, Silence())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("phase", ["dense", "sparse"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_signal_saves_the_state_first_and_the_run_goes_on_from_there(
    number: signal.Signals, phase: str, at: int, make_trainer, make_method, records, tmp_path: Path, bits
) -> None:
    """Also in the last step of a phase, after which nothing would be saved but the phase's result."""
    about = {"max_steps": 3, "dense_max_steps": 3, "dropout": 0.1, "evaluate_every_steps": 100}
    whole = make_trainer(make_method("lt_sft"), **about)
    whole.train(tmp_path / "whole", Silence())
    before = signal.getsignal(number)
    moments = [(phase, at)]

    def stop(name: str, step: int) -> None:
        if (name, step) in moments:
            moments.clear()
            os.kill(os.getpid(), number)

    kept: list[Any] = []
    with pytest.raises(Interrupted, match=f"{number.name}.*state") as stopped:
        make_trainer(make_method("lt_sft"), **about).train(tmp_path / "stopped", records(kept, at=stop))
    assert stopped.value.signal == number
    assert kept[-1][:2] == (phase, at), "it went on after the step in which the signal came"
    assert signal.getsignal(number) is before
    resumed = make_trainer(make_method("lt_sft"), **about)
    watcher = records(kept)
    resumed.train(tmp_path / "stopped", watcher)
    steps = [(name, step) for name, step, values in kept if "loss" in values]
    assert steps == [(name, step) for name in ("dense", "sparse") for step in (1, 2, 3)]
    assert bits(resumed.model.state_dict()) == bits(whole.model.state_dict())


def test_a_second_interrupt_stops_at_once(make_trainer, make_method, records, tmp_path: Path) -> None:
    def insist(phase: str, step: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        make_trainer(make_method("full")).train(tmp_path, records(at=insist))


def test_state_is_saved_when_it_is_due_and_not_before(make_trainer, make_method, tmp_path: Path) -> None:
    saved: dict[float, int] = {}
    for seconds in (0.0, 1e9):
        trainer = make_trainer(make_method("bitfit"), save_every_seconds=seconds)
        trainer.train(tmp_path / str(seconds), _CountSaves(trainer, saved, seconds))
    # Four steps, of which the last is saved as the end of the phase.
    assert saved == {0.0: 4, 1e9: 1}


class _CountSaves(Silence):
    def __init__(self, trainer: Trainer, saved: dict[float, int], key: float) -> None:
        self._trainer, self._saved, self._key = trainer, saved, key

    def begin_phase(self, name: str, start: int, steps: int) -> None:
        save = self._trainer._state.save

        def counted(*arguments: Any) -> None:
            self._saved[self._key] = self._saved.get(self._key, 0) + 1
            save(*arguments)

        self._trainer._state.save = counted  # type: ignore[method-assign]


def test_a_finished_training_started_again_trains_nothing(make_trainer, make_method, records, tmp_path, bits) -> None:
    first, kept = make_trainer(make_method("lt_sft")), []
    summary = first.train(tmp_path, records(kept))
    again, before = make_trainer(make_method("lt_sft")), list(kept)
    repeated = again.train(tmp_path, records(kept))
    assert kept == before
    assert bits(again.model.state_dict()) == bits(first.model.state_dict())
    assert {k: v for k, v in repeated.items() if k != "seconds"} == {k: v for k, v in summary.items() if k != "seconds"}


def test_seconds_add_up_over_sittings(make_trainer, make_method, records, killed, tmp_path: Path) -> None:
    trainer = make_trainer(make_method("bitfit"), save_every_seconds=0)
    with pytest.raises(killed):
        trainer.train(tmp_path, records(kill_at=2))
    position, _ = trainer._state.load()
    position.seconds = 1000.0
    trainer._state.save(position, trainer.method.trainable(), None, {})
    summary = make_trainer(make_method("bitfit")).train(tmp_path, Silence())
    assert 1000 < summary["seconds"] < 1060


def test_bf16_computes_in_bf16_and_keeps_weights_in_float32(make_trainer, make_method, records, tmp_path: Path) -> None:
    kept: dict[str, list[Any]] = {}
    dtypes = set()
    for precision in ("fp32", "bf16"):
        trainer, watcher = make_trainer(make_method("lt_sft"), precision=precision), records()
        if precision == "bf16":
            linear = trainer.model.backbone.encoder.layer[0].output.dense
            linear.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
        trainer.train(tmp_path / precision, watcher)
        kept[precision] = _steps(watcher.kept, "loss")
        assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert dtypes == {torch.bfloat16}
    assert kept["fp32"] != kept["bf16"]
    assert kept["bf16"] == pytest.approx(kept["fp32"], rel=0.05)


def _phases(make_trainer, overrides: list[str], examples: int, kind: str = "tagging") -> list[tuple[int, float]]:
    """Steps and rate of each phase of LT-SFT, as the config has it, for so many examples."""

    def built(config: Any) -> Any:
        return OmegaConf.to_container(config, resolve=True, structured_config_mode=SCMode.INSTANTIATE)

    with hydra_ready():
        composed = compose([*overrides, "scale=thesis", "method=lt_sft"])
    trainer = make_trainer(build_method(built(composed.method)), kind)
    trainer.recipe = built(composed.train)
    trainer.sources = [LoadedSource("eng", "eng", [{}] * examples)]
    return [(phase.steps, phase.learning_rate) for phase in trainer.method.phases(trainer._budget())]


@pytest.mark.parametrize(
    ("examples", "steps"),
    [
        (800, 30_000),  # 100 epochs are 10,000 steps: the minimum counts
        (4_800, 60_000),  # 100 epochs
        (80_000, 100_000),  # 100 epochs are 1,000,000 steps: the maximum counts
    ],
)
def test_language_modules_train_as_long_as_the_thesis_says(examples: int, steps: int, make_trainer) -> None:
    """Thesis §4.4.2: the lesser of 100 epochs and 100,000 steps of 8, at least 30,000; the same in both phases."""
    assert _phases(make_trainer, ["recipe=language"], examples, "mlm") == [(steps, 5e-5)] * 2


def test_task_modules_train_ten_epochs_and_three_in_the_dense_phase(make_trainer) -> None:
    """Thesis §4.4.3."""
    assert _phases(make_trainer, ["recipe=pos"], 12_543) == [(3 * 1568, 5e-5), (10 * 1568, 5e-5)]


def test_the_dense_phase_takes_its_own_bound_and_rate_where_given(make_trainer) -> None:
    overrides = ["recipe=pos", "method.dense_max_steps=100", "method.dense_learning_rate=1e-5"]
    assert _phases(make_trainer, overrides, 12_543) == [(100, 1e-5), (15_680, 5e-5)]


def test_a_fraction_of_an_epoch_is_at_least_one_step(make_trainer, make_method) -> None:
    trainer = make_trainer(make_method("full"), epochs=0.001, max_steps=None)
    assert trainer._budget().phase("train").steps == 1


def test_languages_micro_batches_and_bf16_resume_to_the_same_bits_too(
    make_trainer, make_method, module_header, records, killed, tmp_path: Path, bits
) -> None:
    name = "backbone.encoder.layer.1.intermediate.dense.weight"
    modules = {
        language: SparseDelta(
            module_header(language=language), {name: Entries(torch.arange(40) * step, torch.full((40,), 0.3), (64, 32))}
        )
        for language, step in (("eng", 1), ("deu", 3))
    }

    def sitting(folder: Path, watcher: Any) -> dict[str, bytes]:
        trainer = make_trainer(
            make_method("lt_sft", "method.l1=0.1"),
            languages=("eng", "deu"),
            modules=modules,
            dropout=0.1,
            precision="bf16",
            micro_batch_size=3,
            warmup_fraction=0.5,
            weight_decay=0.05,
            save_every_seconds=0,
        )
        trainer.train(folder, watcher)
        return bits(trainer.model.state_dict())

    whole = records()
    uninterrupted = sitting(tmp_path / "whole", whole)
    for kill_at in range(1, len(whole.kept) + 1, 2):
        kept: list[Any] = []
        with pytest.raises(killed):
            sitting(tmp_path / str(kill_at), records(kept, kill_at))
        assert sitting(tmp_path / str(kill_at), records(kept)) == uninterrupted
        assert kept == whole.kept


def test_saving_takes_a_small_share_of_the_time_however_large_the_state(
    make_method, make_trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    saves: list[float] = []

    def save(*_: Any) -> None:
        saves.append(clock[0])
        clock[0] += 10.0  # a large state on a slow disk

    def step(*_: Any) -> tuple[float, float]:
        clock[0] += 1.0
        return 1.0, 1.0

    trainer = make_trainer(make_method("bitfit"), max_steps=500, evaluate_every_steps=1000, save_every_seconds=30)
    monkeypatch.setattr("xlt.engine.training.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(trainer, "_forward_backward", step)
    monkeypatch.setattr("xlt.engine.training.RunState.save", save)
    trainer.train(tmp_path, Silence())
    during = saves[:-1]  # the last one is at the end of the phase
    assert during[0] == 30.0
    assert all(later - earlier >= 10.0 + 10.0 / 0.05 for earlier, later in itertools.pairwise(during))
    assert len(during) == 3


@pytest.mark.parametrize(("size", "said"), [(4, False), (10**9, True)])
def test_a_batch_larger_than_the_data_is_said(
    size: int, said: bool, make_trainer, make_method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(Silence, "note", lambda self, message: notes.append(message))
    trainer = make_trainer(make_method("bitfit"), batch_size=size, max_steps=1)
    largest = max(source.examples_an_epoch for source in trainer.sources)
    trainer.train(tmp_path, Silence())
    assert [note for note in notes if "batch_size" in note] == (
        [f"train.batch_size={size}: the largest source has {largest} examples, and a step has no more"] if said else []
    )
