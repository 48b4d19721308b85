"""What a method cannot do as configured is refused when the run is planned, by the shapes of the model alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import BertConfig

from xlt.errors import UsageError
from xlt.models.loading import skeleton


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
        ("pfeiffer", ("method.reduction_factor=32",)),
        ("mad_x", ("method.reduction_factor=32", "method.invertible_reduction_factor=16")),
    ],
)
def test_the_smallest_and_largest_that_leave_something_are_taken(
    name: str, words: tuple[str, ...], model: Any, make_method: Callable[..., Any]
) -> None:
    make_method(name, *words).check_model(model, adapts_language=True)
    assert next(model.parameters()).device == torch.device("meta")
