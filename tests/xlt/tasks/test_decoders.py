"""What tasks read of a decoder, whose tokens see only those before them, and of an encoder-decoder."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.model_families import FAMILIES, tokenizer_of
from xlt.data.encoding import Encoder
from xlt.data.examples import Answer, Example
from xlt.data.streams import stream
from xlt.models.loading import _class_for, take_apart
from xlt.models.transfer import TransferModel
from xlt.tasks.classification import Classification
from xlt.tasks.question_answering import QuestionAnswering
from xlt.tasks.tagging import Tagging
from xlt.tasks.task import Task

DECODERS = ["GPT-2", "Llama", "Mistral", "Gemma 3"]
CLASSIFICATION = Classification("cls", ["even", "odd"], False, 48, 0.0, "accuracy")
TAGGING = Tagging("pos", "upos", ["a", "b"], 32, 0.0, "accuracy")


def model_of(family: str, task: Task) -> tuple[TransferModel, Encoder]:
    """A tiny model in float64, no two tensors alike, with the task's head."""
    encoder = Encoder(tokenizer_of(FAMILIES[family].tokenizer))
    torch.manual_seed(7)
    pretrained = _class_for(config := FAMILIES[family].model_config(), needs_head=True).from_config(config)
    with torch.no_grad():
        for parameter in pretrained.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model = take_apart(pretrained, family)
    if model.decodes:
        model.keep_encoder()
    model.lm_head, model.head = None, task.head(model.hidden_size)
    with torch.no_grad():
        for parameter in model.head.parameters():  # type: ignore[union-attr]
            parameter.normal_()
    return model.double().eval(), encoder


def texts(count: int) -> list[Example]:
    """Texts of one to nine words, the first of which alone decides about the label."""
    draw = random.Random(3)
    made = []
    for number in range(count):
        rest = " ".join(draw.choice(["the", "mat", "sat", "on"]) for _ in range(draw.randint(0, 8)))
        made.append(
            Example(f"f:{number}", f"{('cat', 'dog')[number % 2]} {rest}".strip(), label=("even", "odd")[number % 2])
        )
    return made


def _left(rows: Tensor, mask: Tensor) -> Tensor:
    """Right-padded rows, padded on the left instead."""
    return torch.stack([row.roll(int((m == 0).sum())) for row, m in zip(rows, mask, strict=True)])


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_classifies_by_the_last_real_token_on_whichever_side_the_padding_is(family: str) -> None:
    model, encoder = model_of(family, CLASSIFICATION)
    batch = CLASSIFICATION.collate(CLASSIFICATION.features(texts(6), encoder), encoder, stream(0))
    assert (batch["attention_mask"] == 0).any()
    alone = []
    for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):  # one text, no padding, no mask
        hidden = model.backbone(input_ids=row[None, : int(mask.sum())]).last_hidden_state
        alone.append(model.head(hidden[0, -1]))  # type: ignore[misc]
    left = {name: _left(batch[name], batch["attention_mask"]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        right_logits = CLASSIFICATION.decisions(model, batch)[0].logits
        left_logits = CLASSIFICATION.decisions(model, {**batch, **left})[0].logits
    # Some families compute the softmax of attention, or rotations, in float32.
    torch.testing.assert_close(right_logits, torch.stack(alone), rtol=0, atol=1e-5)
    torch.testing.assert_close(left_logits, torch.stack(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["GPT-2", "Llama", "mT5"])
def test_separable_texts_are_separated(family: str, fit: Callable[..., dict[str, float]]) -> None:
    model, encoder = model_of(family, CLASSIFICATION)
    model = model.float()
    torch.nn.init.normal_(model.head.classifier.weight, std=0.02)  # type: ignore[union-attr,arg-type]
    found = fit(CLASSIFICATION, texts(48), model=model, words=encoder, max_steps=60, learning_rate=5e-3, batch_size=8)
    assert found["accuracy"] >= 95


@pytest.mark.parametrize("family", ["GPT-2", "mT5", "XLM-R"])
def test_a_word_is_tagged_by_a_piece_that_has_seen_all_of_it(family: str) -> None:
    """In a decoder that is the last piece, so that a change at the word's end changes its tag's score."""
    model, encoder = model_of(family, TAGGING)
    words = ("catsat", "mat")
    example = Example("f:1", " ".join(words), words, {"upos": ("a", "b")})
    (row,) = TAGGING.features([example], encoder)
    batch = TAGGING.collate([row], encoder, stream(0))
    pieces = encoder.words([words], [example.text])[0]
    assert len(pieces[0]) > 1
    at = len(encoder.prefix) + (len(pieces[0]) - 1 if model.causal else 0)
    hidden = model.encode(batch["input_ids"], batch["attention_mask"])
    wanted = model.head(hidden[0, at])  # type: ignore[misc]
    torch.testing.assert_close(TAGGING.decisions(model, batch)[0].logits[0], wanted)
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    end = len(encoder.prefix) + len(pieces[0]) - 1
    changed["input_ids"][0, end] = encoder.words([["mat"]], ["mat"])[0][0][0]
    assert not torch.equal(TAGGING.decisions(model, changed)[0].logits[0], wanted)


def test_a_decoder_says_that_there_is_no_answer_by_what_has_seen_the_window() -> None:
    task = QuestionAnswering("qa", 32, 8, 8, 5, "squad")
    model, encoder = model_of("GPT-2", task)
    contexts = ("the cat sat", "the cat sat on the mat")
    examples = [Example(f"f:{n}", "on", pair=text, answers=(Answer("cat", 4),)) for n, text in enumerate(contexts)]
    batch = task.collate(task.features(examples, encoder), encoder, stream(0))
    start, _ = task.decisions(model, batch)
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        hidden = model.backbone(input_ids=batch["input_ids"][row : row + 1, :length]).last_hidden_state
        torch.testing.assert_close(start.logits[row, 0].double(), model.head(hidden[0, -1])[0])  # type: ignore[misc]


def test_an_encoder_decoder_reads_by_its_encoder_alone() -> None:
    for family in ("mT5", "BART", "M2M-100"):
        model, encoder = model_of(family, CLASSIFICATION)
        assert not model.decodes and not any(".decoder." in name for name, _ in model.named_parameters())
        assert model.pretrained_parameters == sum(p.numel() for p in model.backbone.parameters())
        batch = CLASSIFICATION.collate(CLASSIFICATION.features(texts(3), encoder), encoder, stream(0))
        rows: Any = model.backbone
        wanted = rows.encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        torch.testing.assert_close(CLASSIFICATION.decisions(model, batch)[0].logits, model.head(wanted[:, 0]))  # type: ignore[misc]
        assert isinstance(model.head, nn.Module)
