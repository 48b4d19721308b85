"""The parser through the engine."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parsed_sentences import example, parsing_task, some_sentences
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import LoadedSource
from xlt.engine.activation import LanguageActivation
from xlt.engine.training import Trainer
from xlt.models.transfer import TransferModel
from xlt.tasks.parsing import Parsing


def made_up_sentences(count: int, seed: int) -> list[Example]:
    """One verb (b..) under the root, nouns (m..) under it, adjectives (s..) under the next noun."""
    draw = random.Random(seed)
    result = []
    for number in range(count):
        phrases = [["s"] * draw.randint(0, 2) + ["m"] for _ in range(draw.randint(1, 3))]
        before = draw.randint(0, len(phrases))
        kinds = [k for p in phrases[:before] for k in p] + ["b"] + [k for p in phrases[before:] for k in p]
        verb = kinds.index("b") + 1
        heads, relations = [], []
        for at, kind in enumerate(kinds, start=1):
            heads.append({"b": 0, "m": verb, "s": kinds.index("m", at - 1) + 1 if kind == "s" else 0}[kind])
            relations.append({"b": "root", "s": "amod", "m": "nsubj" if at < verb else "obj"}[kind])
        words = [kind + draw.choice("aeiou") + draw.choice(["n", "s", "nat"]) for kind in kinds]
        result.append(example(words, heads, relations, f"made-up:{number}"))
    return result


@pytest.fixture
def parsing_trainer(
    make_trainer: Callable[..., Trainer],
    make_method: Callable[..., Any],
    make_model: Callable[..., TransferModel],
    encoder: Encoder,
) -> Callable[..., Trainer]:
    def make(parsing: Parsing, train: Sequence[Example], dev: Sequence[Example], method: str = "full", **recipe: Any):
        dtype = recipe.pop("dtype", torch.float32)
        trainer = make_trainer(make_method(method), **recipe)
        model = make_model(parsing, dtype=dtype)
        parsing.check([*train, *dev], "made-up")
        return dataclasses.replace(
            trainer,
            model=model,
            task=parsing,
            sources=[LoadedSource("train", "eng", parsing.features(train, encoder))],
            validation=[LoadedSource("dev", "eng", parsing.features(dev, encoder))],
            activation=LanguageActivation(model, {}, ["eng"]),
        )

    return make


@pytest.mark.parametrize("method", ["full", "lt_sft", "bitfit"])
def test_two_steps_through_the_engine_change_the_head_and_select_by_las(
    method: str, parsing_trainer: Callable[..., Trainer], records: Callable[..., Any], tmp_path: Path
) -> None:
    data = some_sentences(14), some_sentences(6, seed=1)
    trainer = parsing_trainer(parsing_task(), *data, method=method, max_steps=2, dense_max_steps=2)
    watcher = records()
    summary = trainer.train(tmp_path, watcher)
    assert "best/las" in summary
    assert all(parameter.ne(0).any() for parameter in trainer.model.head.parameters())  # type: ignore[union-attr]
    steps = [values for _, _, values in watcher.kept if "loss" in values]
    assert all(values["targets"] > 0 and math.isfinite(values["loss"]) for values in steps)
    (words,) = {values["validation/words"] for _, _, values in watcher.kept if "validation/words" in values}
    assert words == sum(len(one.words or ()) for one in data[1])


def test_micro_batches_do_not_change_what_is_learned(
    parsing_trainer: Callable[..., Trainer], records: Callable[..., Any], tmp_path: Path
) -> None:
    data = some_sentences(14, longest=9), some_sentences(3, seed=1)
    weights = []
    for size in (None, 1, 3):
        trainer = parsing_trainer(parsing_task(16), *data, max_steps=3, micro_batch_size=size, dtype=torch.float64)
        trainer.train(tmp_path / str(size), records())
        weights.append({name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()})
    for other in weights[1:]:
        for name, value in weights[0].items():
            # float64; Adam divides tiny gradients by themselves, which magnifies a rounding
            assert torch.allclose(other[name], value, atol=1e-6), name


@pytest.mark.parametrize("decoding", ["greedy", "tree"])
def test_the_parser_learns_a_made_up_grammar(
    decoding: str, parsing_trainer: Callable[..., Trainer], records: Callable[..., Any], tmp_path: Path
) -> None:
    parsing = parsing_task(decoding=decoding)
    trainer = parsing_trainer(
        parsing,
        made_up_sentences(300, seed=1),
        made_up_sentences(60, seed=2),
        max_steps=150,
        batch_size=16,
        learning_rate=4e-3,
        warmup_fraction=0.1,
        evaluate_every_steps=50,
    )
    assert trainer.train(tmp_path, records())["best/las"] > 95
