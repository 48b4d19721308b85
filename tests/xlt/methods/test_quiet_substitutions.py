"""What a method cannot do as configured is refused when the run is planned, by the shapes of the model alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, GPT2Config

from xlt.compose import checked, compose, hydra_ready
from xlt.engine.training import Trainer
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.models.loading import skeleton
from xlt.plan.checks import contradictions


@pytest.fixture(scope="module")
def model() -> Any:
    """A model without weights: 32 values a token, 2 layers."""
    shape = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=40,
    )  # fmt: skip
    return skeleton(shape, "tiny")


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("lt_sft", ("method.density=1e-12",), ["method.density=1e-12", "no entry"]),
        ("random_sft", ("method.density=1e-12",), ["method.density=1e-12", "no entry"]),
        ("spiel_ag", ("method.density=1e-12",), ["method.density=1e-12", "no entry", "weight"]),
        ("spiel_ma", ("method.density=1e-4",), ["method.density=0.0001", "no entry of the 1024", "weight"]),
        ("spiel_ag", ("method.rank=1000", "method.density=null"), ["method.rank=1000", "more than all"]),
        ("spiel_ag", ("method.density=1", "method.density_of=model"), ["method.density=1.0", "more than all"]),
        ("lora", ("method.rank=33",), ["method.rank=33", "query.weight", "32 x 32", "32 or less"]),
        ("lora", ("method.rank=40", "method.layers=[intermediate.dense]"), ["method.rank=40", "64 x 32", "32 or less"]),
        ("flix", ("method.ranks.task=33",), ["method.ranks.task=33", "32 x 32", "32 or less"]),
        ("flix", ("method.rank=100",), ["method.rank=100", "32 x 32", "32 or less"]),
        ("pfeiffer", ("method.reduction_factor=33",), ["method.reduction_factor=33", "32 values", "at most 32"]),
        ("mad_g", ("method.reduction_factor=1e9",), ["method.reduction_factor=1e+09", "32 values"]),
        ("mad_x", ("method.invertible_reduction_factor=17",), ["method.invertible_reduction_factor=17", "16"]),
    ],
)
def test_a_setting_of_which_nothing_would_be_left_is_refused(
    name: str, words: tuple[str, ...], said: list[str], model: Any, make_method: Callable[..., Any]
) -> None:
    method = make_method(name, *words)
    with pytest.raises(UsageError) as refused:
        method.check_model(model, adapts_language=True)
    (line,) = refused.value.lines
    assert all(part in line for part in said), line


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lt_sft", ("method.density=1e-4",)),
        ("random_sft", ("method.density=1",)),
        ("spiel_ag", ("method.density=0.001",)),
        ("spiel_ag", ("method.rank=8", "method.density=null")),
        ("lora", ("method.rank=32",)),
        ("pfeiffer", ("method.reduction_factor=32",)),
        ("mad_x", ("method.reduction_factor=32", "method.invertible_reduction_factor=16")),
    ],
)
def test_the_smallest_and_largest_that_leave_something_are_taken(
    name: str, words: tuple[str, ...], model: Any, make_method: Callable[..., Any]
) -> None:
    make_method(name, *words).check_model(model, adapts_language=True)
    assert next(model.parameters()).device == torch.device("meta")


def test_what_a_rank_may_be_follows_from_the_smaller_side_of_the_matrix(make_method: Callable[..., Any]) -> None:
    shape = GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=2, n_positions=40)
    model = skeleton(shape, "tiny")  # its layers are transposed: c_attn is 32 x 96, in the order of its inputs
    make_method("lora", "method.rank=32").check_model(model, adapts_language=False)
    with pytest.raises(UsageError, match=r"method\.rank=33: .*c_attn\.weight of model tiny is 32 x 96"):
        make_method("lora", "method.rank=33", "method.layers=[c_attn]").check_model(model, adapts_language=False)


@pytest.mark.parametrize("name", ["spiel_ag", "spiel_ma"])
def test_a_run_that_ends_before_spiel_replaces_any_entry_is_refused(
    name: str, make_method: Callable[..., Any], make_trainer: Callable[..., Trainer]
) -> None:
    said = r"method\.update_interval=4: in 4 steps no entry .* method\.update_interval=3"
    with pytest.raises(UsageError, match=said):
        make_trainer(make_method(name, "method.update_interval=4"), max_steps=4).attach_first_phase()
    by_epochs = {"epochs": 1, "max_steps": None}  # 14 examples in batches of 4
    with pytest.raises(UsageError, match=said):
        make_trainer(make_method(name, "method.update_interval=4"), **by_epochs).attach_first_phase()
    make_trainer(make_method(name, "method.update_interval=3"), **by_epochs).attach_first_phase()
    assert "give more steps" in (make_method(name).steps_fault(1) or "")


@pytest.mark.parametrize("averaging", ["checkpoints", "ema"])
def test_entries_that_change_have_no_mean_and_an_average_that_never_changes_is_none(averaging: str) -> None:
    words = ["experiment=nano_fields", f"train.averaging={averaging}"]
    with hydra_ready():
        wrong = checked(compose([*words, "method=spiel_ag", "method.density=0.05"]))
        right = checked(compose([*words, "method=lt_sft"]))
        with pytest.raises(UsageError, match=r"train\.ema_decay=1: the average would never change"):
            checked(compose([*words, "train.ema_decay=1.0"]))
        with pytest.raises(UsageError, match=r"train\.average_last=3: has no effect with train\.averaging=none"):
            checked(compose(["experiment=nano_fields", "train.average_last=3"]))
    (line,) = contradictions(wrong)
    assert line.startswith(f"train.averaging={averaging}: method spiel_ag changes which entries it trains")
    assert contradictions(right) == []


def test_an_interval_above_max_steps_is_refused_when_the_run_is_planned() -> None:
    words = ["experiment=nano_fields", "method=spiel_ag", "method.density=0.05", "train.epochs=null"]
    with hydra_ready():
        short, enough = (checked(compose([*words, f"train.max_steps={steps}"])) for steps in (20, 21))
    (line,) = contradictions(short)
    assert line.startswith("method.update_interval=20: in 20 steps no entry would be replaced")
    assert contradictions(enough) == []


def test_a_run_that_is_validated_only_at_its_end_says_so(
    make_method: Callable[..., Any], make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    def notes(**recipe: Any) -> list[str]:
        heard: list[str] = []
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        make_trainer(make_method("lt_sft"), dense_max_steps=2, **recipe).train(folder, Hearing(heard))
        return heard

    assert notes(evaluate_every_steps=2) == []
    by_steps = notes(evaluate_every_steps=3, max_steps=3)
    assert len(by_steps) == 1 and "phase dense: 2 steps are fewer than the 3" in by_steps[0]
    epochs = {"evaluate_every_steps": None, "evaluate_every_epochs": 2.0, "max_steps": 7}
    assert ["8" in note for note in notes(**epochs)] == [True, True]  # 14 examples in batches of 4: 4 steps an epoch


class Hearing(Silence):
    """A watcher that keeps the notes."""

    def __init__(self, heard: list[str]) -> None:
        self._heard = heard

    def note(self, message: str) -> None:
        self._heard.append(message)
