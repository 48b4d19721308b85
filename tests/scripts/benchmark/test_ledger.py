"""The ledger of memory: exact counts, and hollow trainings beside real ones."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import bench_llm
import pytest
import torch
from benchmark.hollow import hollow, on_a_gpu, pack_blocks
from benchmark.ledger import CATEGORIES, Ledger, Peak, peak_of
from benchmark.prediction import SETTINGS, STEPS, predicted
from benchmark.trainers import tagging_trainer

from xlt.engine.training import Trainer
from xlt.models.quantised import quantise_blocks
from xlt.models.transfer import recompute_activations

OFTEN = ["lora", "spiel_ag"]
SELDOM = [
    "full",
    "pfeiffer",
    "spiel_ma",
    "bitfit",
    "random_sft",
    "lt_sft",
    "ia3",
    "houlsby",
    "mad_x",
    "mad_g",
    "mad_g_ls",
    "flix",
    "pretrain",
]
SMALL = {"lora": ("method.rank=4",), "flix": ("method.ranks={task: 4}",)}


@contextlib.contextmanager
def real() -> Iterator[Ledger]:
    """A ledger of tensors with memory, whose kernels are interpreted."""
    with on_a_gpu(computes=True), Ledger() as ledger:
        yield ledger


def tagger(method: str, *, checkpointing: bool = False, layers: int | None = None) -> Trainer:
    recipe = ["train.batch_size=4", "train.micro_batch_size=2", "train.precision=fp32"]
    overrides = [*STEPS, *recipe, *SETTINGS.get(method, ()), *SMALL.get(method, ())]
    trainer = tagging_trainer("tiny", method, overrides, 24, layers=layers)
    if checkpointing:
        recompute_activations(trainer.model)
    return trainer


def peak(inside: Callable[[], contextlib.AbstractContextManager[Ledger]], make: Callable[[], Trainer]) -> Peak:
    with inside() as ledger:
        trainer = make()
        return peak_of(trainer, ledger, (trainer.phases[-1].name, 3))


def test_a_storage_counts_once_and_until_it_is_freed() -> None:
    with Ledger() as ledger:
        first = torch.empty(1000, dtype=torch.float32)
        view = first[10:20]
        assert ledger.total == 4000
        del first
        assert ledger.total == 4000  # the view keeps it
        second = torch.empty(100, dtype=torch.int64)
        del view
        assert (ledger.total, ledger.peak) == (800, 4800)
        assert ledger.numbers_of([second]) == set(ledger.live)


@pytest.mark.parametrize("name", [*OFTEN, *(pytest.param(name, marks=pytest.mark.slow) for name in SELDOM)])
def test_a_hollow_training_needs_what_a_real_one_does(name: str) -> None:
    expected, found = peak(real, lambda: tagger(name)), peak(hollow, lambda: tagger(name))
    assert found.total == pytest.approx(expected.total, rel=0.1)
    for part in CATEGORIES:  # none of them makes up for another
        assert found.parts[part] == pytest.approx(expected.parts[part], abs=0.1 * expected.total), part
    assert found.trained == pytest.approx(expected.trained, rel=0.01) and found.trained > 0


def test_the_parts_are_the_bytes_that_the_method_says() -> None:
    """Full fine-tuning in float32: two moments, a gradient and the starting values of each parameter."""
    found = peak(hollow, lambda: tagger("full"))
    entries = 4 * found.trained
    assert found == peak(hollow, lambda: tagger("full"))
    assert found.parts["moments"] == pytest.approx(2 * entries, rel=0.01)
    assert found.parts["gradients"] == entries and found.parts["trained"] == 0
    assert found.parts["weights"] == pytest.approx(entries, rel=0.15)  # and buffers
    assert found.parts["kept"] == pytest.approx(entries, rel=0.1)


@pytest.mark.slow
def test_recomputed_activations_are_not_kept() -> None:
    for inside in (real, hollow):
        kept = peak(inside, lambda: tagger("lora")).parts["activations"]
        recomputed = peak(inside, lambda: tagger("lora", checkpointing=True)).parts["activations"]
        assert 0 < recomputed < kept / 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "spiel_ag"])
def test_two_small_models_predict_a_larger_one(method: str) -> None:
    whole = peak(hollow, lambda: tagger(method, layers=7))
    found = predicted(lambda layers: tagger(method, layers=layers), 7)
    assert found.total == pytest.approx(whole.total, rel=0.01)
    assert found.trained == whole.trained and found.moment == whole.moment
    assert min(found.parts.values()) >= 0


def test_the_moment_that_needs_most_may_be_another_in_a_deeper_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """At one moment 100 MiB + 10 a layer are in use, at another 40 + 12 a layer: more from 31 layers on."""

    def ledger(_: object, layers: int) -> dict[str, Peak]:
        sizes = {"first": ("kept", 100 + 10 * layers), "second": ("gradients", 40 + 12 * layers)}
        none = dict.fromkeys(CATEGORIES, 0)
        return {moment: Peak({**none, part: size}, moment, layers) for moment, (part, size) in sizes.items()}

    monkeypatch.setattr("benchmark.prediction._ledger", ledger)
    for layers, moment, total in ((20, "first", 300), (40, "second", 520)):
        found = predicted(lambda _: None, layers)  # type: ignore[arg-type, return-value]
        assert (found.moment, found.total, found.trained) == (moment, total, layers)


@pytest.mark.slow
def test_packed_weights_have_the_bytes_of_quantised_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    settings = [*STEPS, *SETTINGS["spiel_ag"]]

    def make() -> Trainer:
        return bench_llm.trainer_of("tiny", "spiel_ag", True, True, 2, 1, 32, settings, layers=2)

    found = peak(hollow, make)
    monkeypatch.setattr(bench_llm, "pack_blocks", quantise_blocks)
    expected = peak(real, make)
    assert pack_blocks is not bench_llm.pack_blocks
    assert found.parts["weights"] == pytest.approx(expected.parts["weights"], rel=0.02)
    assert found.total == pytest.approx(expected.total, rel=0.1)


def test_the_command_prints_the_prediction_beside_the_thesis_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_llm, "published", lambda name, size: {"GB": 20.0})
    monkeypatch.setenv("COLUMNS", "60")
    words = "--predict --size tiny --tokens 32 --methods ia3 --four-bit no --checkpointing yes --threads 1"
    monkeypatch.setattr(sys, "argv", ["bench_llm.py", *words.split(), "--output", str(tmp_path / "record.json")])
    bench_llm.main()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[0].split() == ["method", "MiB", "thesis", "of", "which"]
    assert lines[1].startswith("ia3, checkpointing") and " 20 " in lines[1]
    rows = json.loads((tmp_path / "record.json").read_text())["rows"]
    row = rows["ia3, checkpointing"]
    assert row["thesis_gb"] == 20.0 and row["bytes"] == sum(row["parts"].values()) > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--size mbert", "give --predict"),
        ("--methods bitfit", "give --predict"),
        ("--predict --methods lorra", "there are bitfit, "),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(
    words: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_llm.py", *words.split()])
    with pytest.raises(SystemExit) as stop:
        bench_llm.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and said in line
