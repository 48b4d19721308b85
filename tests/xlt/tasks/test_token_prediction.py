"""The loss of tasks that predict tokens, without the logits of all tokens at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from tests.model_families import FAMILIES
from xlt.models.cpu_training import fast_training
from xlt.models.loading import _class_for, take_apart
from xlt.models.transfer import TransferModel
from xlt.tasks import token_prediction
from xlt.tasks.causal_lm import CausalLanguageModelling
from xlt.tasks.mlm import MaskedLanguageModelling
from xlt.tasks.token_prediction import summed_loss
from xlt.tasks.translation import Translation

PART = 300  # logits
CAUSAL = CausalLanguageModelling(32, True)
MASKED = MaskedLanguageModelling(32, 0.15, True)
TRANSLATION = Translation(32, 1, 0.1, "chrf", "auto", {})
TASKS: dict[str, Any] = {"BERT": MASKED, "GPT-2": CAUSAL, "Gemma 3": CAUSAL, "M2M-100": TRANSLATION}


def model_of(family: str) -> TransferModel:
    torch.manual_seed(5)
    pretrained = _class_for(config := FAMILIES[family].model_config(), needs_head=True).from_config(config)
    return take_apart(pretrained, family).eval()


def batch_of(model: TransferModel, rows: int = 4, length: int = 9) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(2)
    ids, labels = (torch.randint(5, model.vocabulary, (rows, length), generator=draw) for _ in range(2))
    labels[:, ::3] = token_prediction.IGNORED_LABEL
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return batch | ({"decoder_input_ids": ids.flip(1)} if model.decodes else {})


def plain_loss(model: TransferModel, batch: dict[str, Tensor], smoothing: float) -> Tensor:
    """The definition, from the probabilities of all tokens: -log p of the label, mixed with the mean of all pieces."""
    there = batch["labels"] != token_prediction.IGNORED_LABEL
    hidden = model.decode(**{k: v for k, v in batch.items() if k != "labels"}) if model.decodes else (
        model.encode(batch["input_ids"], batch["attention_mask"])
    )  # fmt: skip
    logs = functional.log_softmax(model.language_model_logits(hidden[there]).double(), -1)
    of_label = logs[torch.arange(len(logs)), batch["labels"][there]]
    return -((1 - smoothing) * of_label + smoothing * logs.mean(-1)).sum()


@pytest.fixture
def few_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_prediction, "_MOST_LOGITS", PART)
    monkeypatch.setattr(token_prediction, "_MOST_LOGITS_OF_PART", PART)


@pytest.mark.parametrize("family", TASKS)
@pytest.mark.usefixtures("few_logits")
def test_loss_and_gradients_in_parts_are_those_of_the_definition(family: str) -> None:
    model = model_of(family)
    task, batch = TASKS[family], batch_of(model)
    model.training = True  # without its layers, so that nothing is dropped out
    expected = plain_loss(model, batch, 0.1 if task is TRANSLATION else 0.0)
    gradients = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    assert task.targets(batch) * model.vocabulary > 3 * PART
    with fast_training(torch.device("cpu")):
        loss = task.loss(model, batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    largest = max(float(right.abs().max()) for right in gradients if right is not None)
    for (name, parameter), right in zip(model.named_parameters(), gradients, strict=True):
        if right is not None:
            assert parameter.grad is not None, name
            assert parameter.grad.allclose(right, rtol=1e-4, atol=1e-6 * largest), name


@pytest.mark.usefixtures("few_logits")
def test_scores_in_parts_are_those_of_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = model_of("BERT"), MASKED
    batch = batch_of(model)
    loss, right, count = task.score(model, batch, [])
    monkeypatch.undo()
    whole, right_of_all, count_of_all = task.score(model, batch, [])
    assert (right, count) == (right_of_all, count_of_all) and loss == pytest.approx(whole, rel=1e-6)


def largest_saved(model: TransferModel, tokens: int) -> int:
    """The number of entries of the largest tensor that the forward pass keeps for the backward pass, but weights."""
    sizes: list[int] = []
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    with saved_tensors_hooks(lambda t: sizes.append(0 if t.data_ptr() in weights else t.numel()) or t, lambda t: t):
        hidden = torch.randn(tokens, model.hidden_size, requires_grad=True)
        summed_loss(model, hidden, torch.ones(tokens, dtype=torch.long))
    return max(sizes)


def test_the_logits_of_many_tokens_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("Llama")
    tokens = 64
    assert largest_saved(model, tokens) >= tokens * model.vocabulary  # few enough for one part
    monkeypatch.setattr(token_prediction, "_MOST_LOGITS", tokens * model.vocabulary - 1)
    monkeypatch.setattr(token_prediction, "_MOST_LOGITS_OF_PART", PART)
    assert largest_saved(model, tokens) < tokens * model.vocabulary / 2


def test_ordinary_batches_are_computed_in_one_part() -> None:
    assert token_prediction._MOST_LOGITS > 307 * 119_547  # 15% of 8 x 256 tokens of mBERT
    assert token_prediction._MOST_LOGITS < 4 * 2048 * 32_000  # four long conversations of Llama 2
