"""Multiple choice: which answers are refused, what the model reads, what it learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import LoadedSource
from xlt.data.records import example_of
from xlt.data.streams import stream
from xlt.engine.evaluation import evaluate
from xlt.errors import UsageError
from xlt.models.transfer import TransferModel
from xlt.tasks.multiple_choice import MultipleChoice


def task(max_length: int = 64, dropout: float = 0.0) -> MultipleChoice:
    return MultipleChoice("multiple_choice", max_length, dropout)


def question(label: str | None, *choices: str, text: str | None = "bun lan mi", pair: str | None = "mi") -> Example:
    return Example("f:1", text, pair=pair, label=label, choices=choices)


EXAMPLES = [
    question("1", "bun", "dat kol"),
    question("3", "lan", "mi", "sot"),
    question("2", "dat", "bun", text="lan lan lan lan bun"),
]


def collated(examples: list[Example], encoder: Encoder) -> tuple[MultipleChoice, dict[str, Any], list[Any]]:
    one = task()
    rows = one.features(examples, encoder)
    return one, one.collate(rows, encoder, stream(0, "test")), rows


def test_an_input_is_the_passage_and_the_question_with_one_answer(encoder: Encoder) -> None:
    _, batch, rows = collated(EXAMPLES, encoder)
    expected = [
        encoder.tokenizer(example.text, f"{example.pair} {choice}")["input_ids"]
        for example in EXAMPLES
        for choice in example.choices
    ]
    assert batch["input_ids"].shape[:2] == (3, 3)
    there = batch["attention_mask"].sum(-1) > 0
    assert there.tolist() == [[True, True, False], [True, True, True], [True, True, False]]
    ids = zip(batch["input_ids"][there], expected, strict=True)
    assert [row[: len(whole)].tolist() for row, whole in ids] == expected
    assert batch["attention_mask"][there].sum(1).tolist() == [len(whole) for whole in expected]
    assert batch["choices"].tolist() == [2, 3, 2]
    assert batch["labels"].tolist() == [0, 2, 1]
    assert [sum(row["lengths"]) == len(row["input_ids"]) for row in rows] == [True] * 3


def test_the_loss_is_a_softmax_over_the_answers_of_each_question(
    make_model: Callable[..., TransferModel], encoder: Encoder
) -> None:
    one, batch, _ = collated(EXAMPLES, encoder)
    model = make_model(one).eval()
    torch.nn.init.normal_(model.head.scorer.weight, generator=torch.Generator().manual_seed(2))
    expected = 0.0
    for example in EXAMPLES:  # each answer by itself, nothing padded
        scores = []
        for choice in example.choices:
            ids = torch.tensor([encoder.tokenizer(example.text, f"{example.pair} {choice}")["input_ids"]])
            scores.append(model.head(model.encode(ids, torch.ones_like(ids))[0, 0]).detach())
        expected -= float(torch.stack(scores).log_softmax(0)[int(str(example.label)) - 1])
    assert float(one.loss(model, batch).detach()) == pytest.approx(expected, rel=1e-4)


def test_a_part_of_a_batch_has_the_loss_of_its_questions(
    make_model: Callable[..., TransferModel], encoder: Encoder
) -> None:
    one, batch, _ = collated(EXAMPLES, encoder)
    model = make_model(one).eval()
    parts = [{name: tensor[at : at + 1] for name, tensor in batch.items()} for at in range(3)]
    whole = float(one.loss(model, batch).detach())
    assert sum(float(one.loss(model, part).detach()) for part in parts) == pytest.approx(whole, rel=1e-5)


def test_accuracy_is_over_questions_and_chance_is_what_guessing_would_score(
    make_model: Callable[..., TransferModel], encoder: Encoder
) -> None:
    one, _, rows = collated(EXAMPLES, encoder)
    source = LoadedSource("x", "eng", rows)
    metrics = evaluate(make_model(one), one, [source], encoder, 2, "fp32")
    assert metrics["chance"] == pytest.approx(100 * (1 / 2 + 1 / 3 + 1 / 2) / 3)
    assert metrics["accuracy"] in (0.0, pytest.approx(100 / 3), pytest.approx(200 / 3), 100.0)


def test_it_learns_which_answer_is_right(fit: Callable[..., dict[str, float]]) -> None:
    words = ["bun", "lan", "mi", "dat", "kol", "sot"]
    examples = []
    for number, word in enumerate(word for word in words if word != "kol"):  # `kol` is right, wherever it stands
        choices = ("kol", word) if number % 2 else (word, "kol")
        examples.append(question(str(choices.index("kol") + 1), *choices))
    assert fit(task(), examples, max_steps=60)["accuracy"] == 100.0


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (question("1", "a", "b", text=None), r"f:1: .*passage"),
        (question("1", "a", "b", pair=None), r"f:1: .*question"),
        (question("1", "a"), r"f:1: .*1 answers.*choice_1"),
        (question("1", "a", " "), r"f:1: answer 2 is empty"),
        (question("3", "a", "b"), r"f:1: label '3' .*1 to 2"),
        (question("A", "a", "b"), r"f:1: label 'A' .*labels"),
        (question(None, "a", "b"), r"f:1: label None"),
    ],
)
def test_questions_that_do_not_fit_are_refused_with_their_place(broken: Example, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        task().check([broken], "data.sources.x")


def test_a_length_that_cuts_an_answer_off_is_refused(encoder: Encoder) -> None:
    long = question("1", "bun " * 40, "lan " * 40)
    with pytest.raises(UsageError, match=r"f:1: task\.max_length=64"):
        task().features([long], encoder)
    (row,) = task().features([question("1", "bun", "lan", text="mi " * 200)], encoder)
    assert row["lengths"] == [64, 64]  # a long passage loses its end


def test_answers_are_read_in_the_order_of_their_numbers() -> None:
    fields = {"text": "p", "pair": "q", "choice_10": "j", "choice_2": "b", "choice_1": "a", "label": "n"}
    example = example_of({"p": "P", "q": "Q", "a": "A", "b": "B", "j": "J", "n": 2}, fields, "f:1")
    assert (example.choices, example.label) == (("A", "B", "J"), "2")
