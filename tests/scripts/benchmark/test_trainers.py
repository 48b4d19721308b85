"""Trainers of random models, and the watcher that times them."""

from __future__ import annotations

import pytest
from benchmark.trainers import StepClock, SteppedTrainer, tagging_trainer, train


@pytest.mark.parametrize("languages", [("eng",), ("eng", "deu")])
def test_the_clock_has_seconds_for_each_step_and_memory_for_each_phase(languages: tuple[str, ...]) -> None:
    steps = ["train.max_steps=3", "method.dense_max_steps=2", "train.batch_size=2"]
    trainer, clock = tagging_trainer("tiny", "lt_sft", steps, 8, languages), StepClock()
    train(trainer, clock)
    assert {phase: len(seconds) for phase, seconds in clock.seconds.items()} == {"dense": 2, "sparse": 3}
    assert all(second > 0 for seconds in clock.seconds.values() for second in seconds)
    assert clock.peak_mib.keys() == clock.seconds.keys() and min(clock.peak_mib.values()) > 0
    assert [source.language for source in trainer.sources] == list(languages)
    assert len(trainer.sources[0].features[0]["input_ids"]) == 8


def test_a_stepped_trainer_makes_one_step_a_call() -> None:
    words = ["train.max_steps=9", "method.dense_max_steps=1", "train.batch_size=2"]
    trainer = tagging_trainer("tiny", "lt_sft", words, 8)
    steps: list[float] = []
    before_step = trainer.method.before_step

    def counted() -> None:
        before_step()
        steps.append(1)

    trainer.method.before_step = counted  # type: ignore[method-assign]
    stepped = SteppedTrainer(trainer, "sparse")
    assert len(steps) == 2  # the dense phase's, and the first of the sparse phase
    for number in range(3):
        stepped.step()
        assert len(steps) == 3 + number
    stepped.close()
    assert len(steps) == 5
