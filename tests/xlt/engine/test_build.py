from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tokenizer_kinds import wordpiece
from xlt.compose import checked, compose, hydra_ready
from xlt.config import RunConfig
from xlt.data.encoding import Encoder
from xlt.engine.build import build_model, build_task
from xlt.errors import UsageError
from xlt.models.loading import load_tokenizer
from xlt.models.transfer import TransferModel


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with hydra_ready():
        yield


def config(model: Path, *words: str) -> RunConfig:
    return checked(compose(["+source@data.sources.eng=ud_eng", f"model.path={model}", "task.max_length=40", *words]))


def build(model: Path, *words: str, encoder: Encoder | None = None) -> TransferModel:
    run = config(model, *words)
    encoder = encoder or Encoder(load_tokenizer(str(model)))
    return build_model(run, str(model), build_task(run.task), encoder, trains=True)


def test_the_head_is_drawn_from_the_seed_alone(tiny_bert: Path) -> None:
    first, again, other = (build(tiny_bert, f"seed={seed}").head for seed in (1, 1, 2))
    assert first is not None and again is not None and other is not None
    for name, tensor in first.state_dict().items():
        assert tensor.equal(again.state_dict()[name]), name
    assert not first.classifier.weight.equal(other.classifier.weight)  # type: ignore[union-attr,operator]


def test_more_positions_than_the_model_has_are_refused(tiny_bert: Path) -> None:
    with pytest.raises(UsageError, match=r"task\.max_length=400: .*\b50\b"):
        build(tiny_bert, "task.max_length=400")


def test_a_tokenizer_that_numbers_sequences_is_refused_for_a_model_of_one_type(tiny_xlm_r: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.path=.* type"):
        build(tiny_xlm_r, "task=nli", encoder=Encoder(wordpiece()))


def test_a_tokenizer_larger_than_the_models_embeddings_is_refused(tiny_bert: Path) -> None:
    encoder = Encoder(load_tokenizer(str(tiny_bert)))
    encoder.tokenizer.add_tokens([f"new{number}" for number in range(9)])
    with pytest.raises(UsageError, match=r"\b309\b.*\b300\b"):
        build(tiny_bert, encoder=encoder)
