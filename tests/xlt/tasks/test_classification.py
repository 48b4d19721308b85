from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score

from tests.tokenizer_kinds import KINDS
from tests.tolerance import summation_tolerance
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.errors import UsageError
from xlt.models.loading import load_pretrained
from xlt.models.transfer import TransferModel
from xlt.tasks.classification import Classification, ClassificationConfig

LABELS = ["yes", "no", "maybe"]


def task(pair: bool = True, max_length: int = 32, dropout: float = 0.0, metric: str = "accuracy") -> Classification:
    return Classification("nli", LABELS, pair, max_length, dropout, metric)


def example(text: str | None, pair: str | None = None, label: str | None = "yes") -> Example:
    return Example("f:1", text, pair=pair, label=label)


EXAMPLES = [
    example("bun lan", "mi", "yes"),
    example("bun", "lan mi bun mi", "no"),
    example("mi", "bun", "maybe"),
    example("lan lan", "bun", "no"),
]


def test_a_pair_is_joined_as_the_tokenizer_joins_it(encoder: Encoder) -> None:
    rows = task().features(EXAMPLES, encoder)
    assert [row["input_ids"] for row in rows] == [encoder.tokenizer(e.text, e.pair)["input_ids"] for e in EXAMPLES]
    assert [row["label"] for row in rows] == [0, 1, 2, 1]


def test_a_single_text_is_cut_at_its_end(encoder: Encoder) -> None:
    text = "bun lan mi " * 20
    (row,) = task(pair=False).features([example(text)], encoder)
    assert row["input_ids"] == encoder.wrap(encoder.lines([text])[0][:30])


def test_the_longer_of_a_pair_is_cut_first(encoder: Encoder) -> None:
    text = "bun lan mi " * 20
    (row,) = task().features([example(text, "mi")], encoder)
    first, second = encoder.lines([text, "mi"])
    kept = first[: encoder.pair_room(32) - len(second)]
    assert row["input_ids"] == encoder.pair_inputs(kept, second)["input_ids"]
    assert len(row["input_ids"]) == 32


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (example(None, "b"), r"f:1: .*no text, .* nli .*data\.sources\.x"),
        (example("a"), r"f:1: .*no second text, .* nli .*data\.sources\.x"),
        (example("a", "b", None), r"f:1: .*no label, .* nli .*data\.sources\.x"),
        (example("a", "b", "NOPE"), r"f:1: label 'NOPE' is not in task.labels \(yes no maybe\)"),
    ],
)
def test_examples_that_do_not_fit_the_task_are_refused_with_their_place(broken: Example, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        task().check([*EXAMPLES, broken], "data.sources.x")
    task().check(EXAMPLES, "data.sources.x")


def test_a_pair_is_refused_where_single_texts_are_asked_for() -> None:
    with pytest.raises(UsageError, match=r"f:1: .*pair.* nli .*task\.pair=false"):
        task(pair=False).check([example("a", "b")], "s")
    task(pair=False).check([example("a")], "s")


def test_labels_must_be_two_or_more_each_once() -> None:
    def faults(labels: list[str]) -> list[str]:
        return list(ClassificationConfig("", "nli", labels, True, 32, 0.1, "accuracy").faults("task"))

    assert not faults(["a", "b"])
    assert faults(["a"]) and faults(["a", "a", "b"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_definition_in_float64_whatever_stands_beside_an_example(
    kind: str, wide_bert: Callable[..., TransferModel]
) -> None:
    words, nli = Encoder(KINDS[kind]()), task()
    model = wide_bert(nli, len(words.tokenizer))
    batch = nli.collate(nli.features(EXAMPLES, words), words, torch.Generator())
    assert ("token_type_ids" in batch) == (kind == "WordPiece")
    by_hand, right = 0.0, []
    dense, last = model.head.dense, model.head.classifier
    for item in EXAMPLES:  # each alone, without padding, straight from the tokenizer
        given = words.tokenizer(item.text, item.pair, return_tensors="pt")
        with torch.no_grad():
            hidden = model.backbone(**given).last_hidden_state[0, 0].tolist()
        size = range(len(hidden))
        inner = [
            math.tanh(sum(dense.weight[i, j].item() * hidden[j] for j in size) + dense.bias[i].item()) for i in size
        ]
        logits = [sum(last.weight[c, i].item() * inner[i] for i in size) + last.bias[c].item() for c in range(3)]
        gold = LABELS.index(str(item.label))
        by_hand += math.log(sum(math.exp(logit) for logit in logits)) - logits[gold]
        right.append((gold, max(range(3), key=logits.__getitem__)))
    with torch.no_grad():
        # Logits are cast to float32; the loss adds four examples of three classes.
        assert nli.loss(model, batch).item() == pytest.approx(by_hand, rel=summation_tolerance(4 * 3, torch.float32))
        golds, guesses = nli.score(model, batch, [])
    assert list(zip(golds, guesses, strict=True)) == right
    assert nli.targets(batch) == 4


def test_metrics_of_a_worked_example() -> None:
    # yes: precision 1/2, recall 1/1, F1 2/3; no: precision 1/1, recall 1/3, F1 1/2; maybe is nowhere, but is predicted:
    # F1 0.
    found = task().metrics([([0, 1], [0, 1]), ([1, 1], [0, 2])])
    assert found == {"accuracy": 50.0, "macro_f1": pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)}


def test_a_label_that_is_neither_there_nor_predicted_does_not_count() -> None:
    assert task().metrics([([0, 1], [0, 1])])["macro_f1"] == 100
    gold, guessed = [0, 0, 1, 1], [0, 1, 1, 1]
    plain = 0.0
    for label in (0, 1):
        both = sum(a == b == label for a, b in zip(gold, guessed, strict=True))
        plain += 2 * both / (gold.count(label) + guessed.count(label)) / 2
    found = task().metrics([(gold, guessed)])["macro_f1"]
    assert found == pytest.approx(100 * plain) == pytest.approx(100 * f1_score(gold, guessed, average="macro"))


def test_the_head_has_two_layers_with_dropout_before_each_and_is_drawn_from_torchs_state() -> None:
    torch.manual_seed(3)
    first = task(dropout=0.5).head(8)
    torch.manual_seed(3)
    assert torch.equal(task().head(8).dense.weight, first.dense.weight)  # type: ignore[union-attr,arg-type]
    assert first(torch.zeros(2, 8)).shape == (2, 3)
    assert sum(p.numel() for p in first.parameters()) == 8 * 8 + 8 + 8 * 3 + 3
    hidden = torch.ones(1, 8)
    assert not torch.equal(first(hidden), first(hidden))
    assert torch.equal(first.eval()(hidden), first(hidden))
    assert not torch.allclose(first(9 * hidden), 9 * first(hidden), atol=0)  # tanh


def test_the_metric_that_selects_is_a_config_value() -> None:
    assert (task().metric, task(metric="macro_f1").metric) == ("accuracy", "macro_f1")
    assert task().labels() == LABELS


@pytest.mark.parametrize("pair", [True, False])
def test_two_phases_of_two_steps_go_through_the_engine(pair: bool, fit: Callable[..., dict[str, float]]) -> None:
    texts = [
        ("bun", "bun", "yes"),
        ("lan", "lan", "yes"),
        ("bun", "lan", "no"),
        ("lan", "bun", "no"),
        ("mi", "mi", "maybe"),
    ]
    examples = [example(f"{a} {b}", None, c) if not pair else example(a, b, c) for a, b, c in texts]
    assert set(fit(task(pair), examples, max_steps=2, method="lt_sft", dense_max_steps=2)) == {"accuracy", "macro_f1"}


def test_the_order_of_a_pair_is_learned(fit: Callable[..., dict[str, float]]) -> None:
    examples = [example("bun", "lan", "yes"), example("lan", "bun", "no"), example("mi", "bun lan", "maybe")]
    assert fit(task(), examples, max_steps=60)["accuracy"] == 100


def test_a_models_own_token_types_are_given_to_it(tiny_bert: Any) -> None:
    model = load_pretrained(str(tiny_bert)).eval()
    ids, types = torch.tensor([[1, 5, 2]]), torch.zeros(1, 3, dtype=torch.int64)
    mask = torch.ones_like(ids)
    assert torch.equal(model.encode(ids, mask, types), model.encode(ids, mask))
