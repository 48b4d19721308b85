"""A run that ends with a mean of its weights: what the mean is, that a killed run has the same, and what refuses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Killed
from xlt.engine.processes import Processes
from xlt.engine.watching import Silence
from xlt.modules import ModuleFileError

METHODS = ("full", "lt_sft", "lora", "mad_x")


class Weights:
    """The trainable values after each step of the last phase, in float64, and where the run was validated."""

    def __init__(self, trainer: Any) -> None:
        self.after: list[dict[str, torch.Tensor]] = []
        method, step = trainer.method, trainer.method.after_step

        def remember(clipping: float) -> None:
            step(clipping)
            values = {name: value.detach().double().clone() for name, value in method.trainable().items()}
            if self.after and values.keys() != self.after[-1].keys():
                self.after.clear()
            self.after.append(values)

        method.after_step = remember

    def mean(self, steps: list[int]) -> dict[str, torch.Tensor]:
        return {name: sum(self.after[at - 1][name] for at in steps) / len(steps) for name in self.after[-1]}

    def moving(self, decay: float) -> dict[str, torch.Tensor]:
        held = self.after[0]
        for values in self.after[1:]:
            held = {name: decay * held[name] + (1 - decay) * values[name] for name in held}
        return held


def ends(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().double() for name, value in trainer.method.trainable().items()}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("last", "steps"), [(2, [4, 5]), (None, [2, 4, 5]), (9, [2, 4, 5])])
def test_it_is_the_mean_of_the_last_validated_weights(
    name: str, last: int | None, steps: list[int], make_trainer, make_method, records, tmp_path: Path
) -> None:
    trainer = make_trainer(
        make_method(name), averaging="checkpoints", average_last=last, max_steps=5, dense_max_steps=5,
        learning_rate=5e-2,
    )  # fmt: skip
    weights = Weights(trainer)
    found, kept = trainer.train(tmp_path, records()), [*tmp_path.glob("kept-*")]
    assert len(weights.after) == 5 and len(kept) == len(steps)
    for tensor, expected in weights.mean(steps).items():
        torch.testing.assert_close(ends(trainer)[tensor], expected, rtol=1e-6, atol=1e-7)
        assert not torch.equal(expected, weights.after[-1][tensor])
    assert found["averaged"] == 1.0 and found["best/step"] == 5


@pytest.mark.parametrize("name", METHODS)
def test_ema_is_the_moving_average_of_all_steps(name: str, make_trainer, make_method, records, tmp_path: Path) -> None:
    trainer = make_trainer(make_method(name), averaging="ema", ema_decay=0.7, max_steps=6, learning_rate=5e-2)
    weights = Weights(trainer)
    trainer.train(tmp_path, records())
    for tensor, expected in weights.moving(0.7).items():
        torch.testing.assert_close(ends(trainer)[tensor], expected, rtol=1e-5, atol=1e-6)


def test_on_paper() -> None:
    from torch import nn

    from xlt.engine.averaging import MovingAverage

    moving, weight = MovingAverage(0.5, {}), nn.Parameter(torch.zeros(1))
    for value in (1.0, 3.0, 7.0):
        with torch.no_grad():
            weight.fill_(value)
        moving.after_step({"w": weight})
    assert moving.mean() == {"w": torch.tensor([4.5])}  # 1, then 2, then 4.5


def test_the_metric_is_that_of_the_mean(make_trainer, make_method, records, tmp_path: Path) -> None:
    kept: list[Any] = []
    trainer = make_trainer(make_method("full"), averaging="checkpoints", learning_rate=5e-2)
    found = trainer.train(tmp_path, records(kept))
    (said,) = [values["average/accuracy"] for _, _, values in kept if "average/accuracy" in values]
    trainer.activation.begin(trainer.method)
    trainer.activation.enter("eng")
    assert found["best/accuracy"] == said == trainer._evaluate(trainer.validation)["accuracy"]


@pytest.mark.parametrize(("name", "averaging"), [("lt_sft", "checkpoints"), ("bitfit", "ema")])
def test_a_run_killed_anywhere_ends_in_the_same_weights(
    name: str, averaging: str, make_trainer, make_method, records, killed, bits, tmp_path: Path
) -> None:
    def make() -> Any:
        options = {"average_last": 2, "max_steps": 6, "dense_max_steps": 2, "learning_rate": 5e-2}
        return make_trainer(make_method(name), averaging=averaging, save_every_seconds=0, **options)

    whole: list[Any] = []
    trainer = make()
    trainer.train(tmp_path / "whole", records(whole))
    for at in range(1, len(whole) + 1):
        folder, kept = tmp_path / str(at), []
        with pytest.raises(Killed):
            make().train(folder, records(kept, kill_at=at))
        again = make()
        again.train(folder, records(kept))
        assert bits(again.model.state_dict()) == bits(trainer.model.state_dict()), at
        assert kept == whole, at


def test_a_kept_file_that_is_damaged_is_set_aside(make_trainer, make_method, records, tmp_path: Path) -> None:
    trainer = make_trainer(make_method("bitfit"), averaging="checkpoints")
    load = trainer._load_mean

    def damaged(*arguments: Any) -> None:
        (tmp_path / "kept-train-2.safetensors").write_bytes(b"no")
        load(*arguments)

    trainer._load_mean = damaged
    with pytest.raises(ModuleFileError, match="kept-train-2"):
        trainer.train(tmp_path, records())
    assert not [*tmp_path.glob("kept-*.safetensors")]
    make_trainer(make_method("bitfit"), averaging="checkpoints").train(tmp_path, records())


@pytest.mark.parametrize("averaging", ["checkpoints", "ema"])
def test_two_processes_end_in_the_same_average_as_one(
    averaging: str, make_trainer, make_method, in_two_processes, tmp_path: Path, bits
) -> None:
    def work(processes: Any, folder: str = "two") -> Any:
        trainer = make_trainer(make_method("lt_sft"), averaging=averaging, processes=processes, dtype=torch.float64)
        trainer.train(tmp_path / folder, Silence())
        return {name: value.clone() for name, value in trainer.model.state_dict().items()}

    first, second = in_two_processes(work, tmp_path / "processes")
    assert bits(first) == bits(second)
    for name, value in work(Processes(), "one").items():
        torch.testing.assert_close(first[name], value, rtol=1e-6, atol=1e-7)
