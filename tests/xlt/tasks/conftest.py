"""A task through the engine: the tiny model, the one training loop, the one evaluation."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import LoadedSource
from xlt.data.streams import stream
from xlt.engine.activation import LanguageActivation
from xlt.engine.evaluation import evaluate
from xlt.engine.training import Trainer
from xlt.methods.method import Setting
from xlt.models.transfer import TransferModel
from xlt.tasks.task import Task


@pytest.fixture
def fit(
    make_trainer: Callable[..., Trainer],
    make_method: Callable[..., Any],
    make_model: Callable[..., TransferModel],
    encoder: Encoder,
    records: Any,
    tmp_path: Path,
) -> Callable[..., dict[str, float]]:
    """`fit(task, examples, max_steps=2)`: trains all weights on the examples; metrics on the same afterwards.

    `model`, `words` (the encoder): others than the tiny BERT's.
    """

    number = itertools.count()

    def run(
        task: Task,
        examples: Sequence[Example],
        *,
        model: TransferModel | None = None,
        words: Encoder | None = None,
        method: str = "full",
        **recipe: Any,
    ) -> dict[str, float]:
        words = words or encoder
        model = model or make_model(task)
        task.check(examples, "data.sources.x")
        source = LoadedSource("x", "eng", task.features(examples, words))
        trainer = dataclasses.replace(
            make_trainer(make_method(method), **{"evaluate_every_steps": 1000, "learning_rate": 2e-3, **recipe}),
            model=model,
            task=task,
            encoder=words,
            sources=[source],
            validation=[source],
            activation=LanguageActivation(model, {}, ["eng"]),
            setting=Setting(task.adapts_language, lambda *name: stream(1, "method", *name)),
        )
        summary = trainer.train(tmp_path / f"run-{next(number)}", records())
        found = evaluate(model, task, [source], words, 16, "fp32")
        assert summary[f"best/{task.metric}"] == pytest.approx(found[task.metric], rel=1e-5)
        return found

    return run


@pytest.fixture
def wide_bert() -> Callable[[Task, int], TransferModel]:
    """`wide_bert(task, vocabulary)`: a BERT in float64 whose head and token types are far from zero."""

    def make(task: Task, vocabulary: int) -> TransferModel:
        from transformers import BertConfig, BertModel

        torch.manual_seed(2)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        backbone = BertModel(BertConfig(vocab_size=vocabulary, **sizes), add_pooling_layer=False)
        model = TransferModel(backbone, None, "", "bert").eval()
        model.head = task.head(16)
        assert model.head is not None
        with torch.no_grad():
            for parameter in (*model.head.parameters(), backbone.embeddings.token_type_embeddings.weight):
                parameter.normal_()
        return model.double()

    return make
