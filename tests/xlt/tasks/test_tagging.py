from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2
from torch import nn

from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import LoadedSource
from xlt.data.schemes import in_iob2
from xlt.engine.evaluation import evaluate
from xlt.errors import UsageError
from xlt.models.transfer import TransferModel
from xlt.tasks.tagging import Tagging, TaggingConfig, Window

LABELS = ["noun", "verb", "other"]


def task(max_length: int = 16) -> Tagging:
    return Tagging("pos", "upos", LABELS, max_length, dropout=0.0, metric="accuracy")


def example(words: list[str], tags: list[str], text: str | None = None) -> Example:
    return Example("file:1", text, tuple(words), {"upos": tuple(tags)})


def predicted(windows: list[dict[str, list[int]]]) -> list[int]:
    return [label for window in windows for label in window["labels"] if label != -100]


def test_a_words_label_stands_at_its_first_piece(encoder: Encoder) -> None:
    words = ["bun", "zzzzqqqq", "lan"]
    (window,) = task().features([example(words, ["verb", "noun", "other"])], encoder)
    pieces = encoder.words([words], [None])[0]
    assert window["input_ids"] == encoder.wrap([piece for word in pieces for piece in word])
    at = len(encoder.prefix)
    expected = [-100] * len(window["input_ids"])
    for word, label in zip(pieces, (1, 0, 2), strict=True):
        expected[at] = label
        at += len(word)
    assert window["labels"] == expected


@pytest.mark.parametrize("count", [1, 5, 17, 60])
def test_windows_of_a_long_sentence_lose_no_word_and_are_cut_between_words(count: int, encoder: Encoder) -> None:
    words = [f"w{'qx' * (number % 4)}{number}" for number in range(count)]
    tags = [LABELS[number % 3] for number in range(count)]
    windows = task().features([example(words, tags)], encoder)
    assert all(len(window["input_ids"]) <= 16 for window in windows)
    assert predicted(windows) == [number % 3 for number in range(count)]
    pieces = encoder.words([words], [None])[0]
    inner = [window["input_ids"][len(encoder.prefix) : -len(encoder.suffix)] for window in windows]
    assert [p for window in inner for p in window] == [p for word in pieces for p in word]
    starts = {sum(map(len, pieces[:number])) for number in range(count + 1)}
    assert {sum(map(len, inner[:number])) for number in range(len(inner))} <= starts


def test_a_word_longer_than_a_window_keeps_its_beginning_and_its_label(encoder: Encoder) -> None:
    words = ["a", "qz" * 40, "b"]
    windows = task().features([example(words, ["noun", "verb", "other"])], encoder)
    assert predicted(windows) == [0, 1, 2]
    assert all(len(window["input_ids"]) <= 16 for window in windows)
    (long,) = encoder.words([[words[1]]], [None])[0]
    assert any(window["input_ids"][1:-1] == long[:14] for window in windows)


def test_examples_that_do_not_fit_the_task_are_refused_with_their_place() -> None:
    with pytest.raises(UsageError, match=r"file:1: .*no column upos, .* pos .*data\.sources\.x"):
        task().check([Example("file:1", "text")], "data.sources.x")
    with pytest.raises(UsageError, match=r"file:1: label 'NOPE' is not in task.labels \(noun verb other\)"):
        task().check([example(["a", "b"], ["noun", "NOPE"])], "s")
    task().check([example(["a"], ["noun"])], "s")


def test_a_batch_is_padded_and_counts_its_words(encoder: Encoder) -> None:
    features = task().features([example(["bun"], ["noun"]), example(["bun", "lan", "mi"], ["verb"] * 3)], encoder)
    batch = task().collate(features, encoder, torch.Generator())
    short, longer = (len(feature["input_ids"]) for feature in features)
    assert batch["input_ids"].shape == batch["labels"].shape == (2, longer)
    assert batch["input_ids"][0, short:].eq(encoder.pad_id).all()
    assert batch["attention_mask"].sum(1).tolist() == [short, longer]
    assert batch["labels"][0, short:].eq(-100).all()
    assert task().targets(batch) == 4


class _Oracle(TransferModel):
    """Hidden states are one-hot token ids, so that a head can be set by hand."""

    causal = False

    def __init__(self, vocabulary: int) -> None:
        nn.Module.__init__(self)
        self.vocabulary_size = vocabulary
        self.head = None

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(input_ids, self.vocabulary_size).float()


def test_loss_and_accuracy_of_a_head_set_by_hand(encoder: Encoder) -> None:
    tagging = task()
    size = len(encoder.tokenizer)
    model = _Oracle(size)
    model.head = tagging.head(size)
    first = [pieces[0][0] for pieces in encoder.words([["bun"], ["lan"], ["mi"]], [None] * 3)]
    with torch.no_grad():  # "bun" -> noun for certain, "lan" -> verb for certain, "mi": no idea
        model.head.classifier.weight.zero_()
        model.head.classifier.weight[0, first[0]] = 100.0
        model.head.classifier.weight[1, first[1]] = 100.0
    features = tagging.features([example(["bun", "lan", "mi"], ["noun", "noun", "other"])], encoder)
    batch = tagging.collate(features, encoder, torch.Generator())
    # right: 0; wrong for certain: 100; no idea among three: log 3
    assert tagging.loss(model, batch).item() == pytest.approx(100.0 + torch.tensor(3.0).log().item())
    (window,) = tagging.score(model, batch, features)
    assert (window.example, window.number, window.gold) == (0, 0, [0, 0, 2])
    assert window.predicted[:2] == [0, 1]


def test_accuracy_is_over_words_in_percent() -> None:
    windows = [Window(0, 0, [0, 1, 2, 2], [0, 1, 2, 0]), Window(1, 0, [0, 0, 0, 0], [1, 1, 2, 2])]
    assert task().metrics([windows[:1], windows[1:]]) == {"accuracy": 37.5, "words": 8.0}


def test_a_head_is_drawn_from_torchs_state_and_scores_every_label() -> None:
    torch.manual_seed(3)
    first = task().head(8)
    torch.manual_seed(3)
    second = task().head(8)
    assert torch.equal(first.classifier.weight, second.classifier.weight)  # type: ignore[union-attr,arg-type]
    assert first(torch.zeros(2, 5, 8)).shape == (2, 5, 3)
    assert task().labels() == LABELS


ENTITIES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def ner(max_length: int = 16) -> Tagging:
    return Tagging("ner", "ner", ENTITIES, max_length, dropout=0.0, metric="f1")


def numbers(*labels: str) -> list[int]:
    return [ENTITIES.index(label) for label in labels]


def test_entity_scores_of_a_worked_example() -> None:
    # Gold: PER 0-1, LOC 3, PER 4. Predicted: PER 0-1 (right), LOC 3-4 (too long), I-LOC alone begins one (wrong).
    gold = numbers("B-PER", "I-PER", "O", "B-LOC", "B-PER", "O")
    predicted = numbers("B-PER", "I-PER", "O", "B-LOC", "I-LOC", "O")
    lone = Window(1, 0, numbers("O", "O"), numbers("O", "I-LOC"))
    found = ner().metrics([[Window(0, 0, gold, predicted)], [lone]])
    assert found == {
        "f1": pytest.approx(100 * 2 * (1 / 3) * (1 / 3) / (1 / 3 + 1 / 3)),  # 1 of 3 predicted, 1 of 3 gold
        "precision": pytest.approx(100 / 3),
        "recall": pytest.approx(100 / 3),
        "strict_f1": pytest.approx(40.0),  # without the lone I-LOC, 1 of 2 predicted is right, and 1 of 3 gold
        "accuracy": 75.0,  # 6 of 8 words
        "words": 8.0,
    }


def test_an_entity_goes_on_from_one_window_to_the_next_in_whatever_order_they_come() -> None:
    first = Window((0, 7), 0, numbers("O", "B-PER"), numbers("O", "B-PER"))
    second = Window((0, 7), 1, numbers("I-PER", "I-PER"), numbers("I-PER", "O"))
    other = Window((1, 7), 0, numbers("B-LOC"), numbers("B-LOC"))
    for order in ([[second], [other, first]], [[first, second], [other]]):
        # Apart, the windows would have three gold entities, and the first PER would be right.
        assert ner().metrics(order)["recall"] == pytest.approx(50)


def entities_of(labels: list[str]) -> set[tuple[str, int, int]]:
    """As conlleval reads them, in plain steps."""
    found, start, kind = set(), 0, ""
    for at, label in enumerate([*labels, "O"]):
        prefix, _, this = label.partition("-")
        goes_on = kind != "" and prefix == "I" and this == kind
        if kind and not goes_on:
            found.add((kind, start, at - 1))
            kind = ""
        if not goes_on and label != "O":
            start, kind = at, this
    return found


def test_scores_agree_with_seqeval_and_with_conllevals_definition_on_real_predictions(
    encoder: Encoder, make_model: Callable[..., Any]
) -> None:
    draw = torch.Generator().manual_seed(4)
    examples, gold = [], []
    for number in range(30):
        count = int(torch.randint(1, 25, (1,), generator=draw))
        tags = [ENTITIES[n] for n in torch.randint(5, (count,), generator=draw).tolist()]
        words = tuple(f"{tag[-1].lower()}u{number % 7}n" for tag in tags)
        examples.append(Example(f"f:{number}", None, words, {"ner": tuple(tags)}))
        gold.append(tags)
    task = ner(24)
    model = make_model(task)
    with torch.no_grad():  # so that all labels are predicted somewhere
        model.head.classifier.weight.normal_(generator=draw)
    model.eval()
    rows = task.features(examples, encoder)
    assert len(rows) > len(examples)
    by_example: list[list[str]] = [[] for _ in examples]
    with torch.no_grad():
        for row in rows:
            logits = model.head(model.encode(torch.tensor([row["input_ids"]]), torch.ones(1, len(row["input_ids"]))))
            guessed = logits[0].argmax(-1).tolist()
            by_example[row["example"]] += [
                ENTITIES[guess] for guess, label in zip(guessed, row["labels"], strict=True) if label != -100
            ]
    found = evaluate(model, task, [LoadedSource("s", "eng", rows)], encoder, 7, "fp32")
    assert [len(labels) for labels in by_example] == [len(labels) for labels in gold]
    assert found["f1"] == pytest.approx(100 * f1_score(gold, by_example))
    assert found["precision"] == pytest.approx(100 * precision_score(gold, by_example))
    assert found["recall"] == pytest.approx(100 * recall_score(gold, by_example))
    pairs = [(entities_of(a), entities_of(b)) for a, b in zip(gold, by_example, strict=True)]
    shared = sum(len(a & b) for a, b in pairs)
    assert found["f1"] == pytest.approx(200 * shared / sum(len(a) + len(b) for a, b in pairs))
    assert 0 < found["f1"] < 100
    assert found["words"] == sum(map(len, gold))


def test_sentences_without_entities_or_words_score_nothing_and_do_not_fail(encoder: Encoder) -> None:
    empty = Window(0, 0, [], [])
    assert ner().metrics([[empty]])["f1"] == 0
    assert ner().metrics([[empty, Window(1, 0, numbers("O"), numbers("O"))]])["accuracy"] == 100
    (row,) = ner().features([Example("f:1", None, (), {"ner": ()})], encoder)
    assert set(row["labels"]) == {-100}


def test_every_row_says_which_window_of_which_sentence_it_is(encoder: Encoder) -> None:
    long = example([f"w{number}" for number in range(40)], ["noun"] * 40)
    rows = task().features([example(["a"], ["noun"]), long, example(["b"], ["verb"])], encoder)
    assert [(row["example"], row["window"]) for row in rows][:2] == [(0, 0), (1, 0)]
    assert [row["window"] for row in rows if row["example"] == 1] == list(range(len(rows) - 2))
    assert rows[-1]["example"] == 2


def test_f1_wants_labels_in_iob2() -> None:
    def faults(labels: list[str], metric: str) -> list[str]:
        return list(TaggingConfig("", "ner", "ner", labels, 16, 0.1, metric).faults("task"))

    assert not faults(ENTITIES, "f1") and not faults(["noun", "I-X"], "accuracy")
    assert len(faults(["O", "PER", "B-LOC", "I-ORG"], "f1")) == 2
    assert "task.labels: 'PER' is not IOB2" in faults(["PER"], "f1")[0]


def test_two_steps_of_named_entities_and_a_few_more_learn_them(fit: Callable[..., dict[str, float]]) -> None:
    words = {"O": "tun", "B-PER": "ban", "I-PER": "bin", "B-LOC": "lan", "I-LOC": "lin"}
    tags = [("O", "B-PER", "I-PER"), ("B-LOC", "O"), ("B-PER", "B-LOC", "I-LOC", "O"), ("O",)]
    examples = [Example(f"f:{n}", None, tuple(words[tag] for tag in row), {"ner": row}) for n, row in enumerate(tags)]
    metrics = {"f1", "precision", "recall", "strict_f1", "accuracy", "words"}
    assert set(fit(ner(), examples, max_steps=2, method="lt_sft")) == metrics
    assert fit(ner(), examples, max_steps=60)["f1"] == 100


def test_f1_is_seqevals_strict_one_on_labels_in_iob2(encoder: Encoder) -> None:
    draw = torch.Generator().manual_seed(2)
    drawn = [[ENTITIES[n] for n in torch.randint(5, (12,), generator=draw).tolist()] for _ in range(40)]
    rows = [Example(f"f:{n}", words=tuple("abcdefghijkl"), columns={"ner": tuple(row)}) for n, row in enumerate(drawn)]
    iob2 = [list(in_iob2(row, "ner", "IOB")) for row in rows]
    gold, predicted, repaired = iob2[:20], drawn[20:], iob2[20:]
    pairs = enumerate(zip(gold, predicted, strict=True))
    found = ner().metrics([[Window(n, 0, numbers(*a), numbers(*b)) for n, (a, b) in pairs]])
    assert found["strict_f1"] == pytest.approx(100 * f1_score(gold, predicted, mode="strict", scheme=IOB2))
    assert found["f1"] == pytest.approx(100 * f1_score(gold, repaired, mode="strict", scheme=IOB2))
    assert found["f1"] != found["strict_f1"]


def test_only_labels_in_iob2_are_tags_of_entities() -> None:
    assert ner().entity_column == "ner" and task().entity_column is None
    assert Tagging("t", "c", ["NOUN", "O"], 16, 0.0, "accuracy").entity_column is None


def test_a_boolean_among_the_labels_has_lost_its_quotes() -> None:
    (line,) = TaggingConfig("", "t", "c", ["maybe", False], 16, 0.1, "accuracy").faults("task")
    assert line.startswith("task.labels[1]=False: ") and "quotes" in line


def test_plain_types_are_refused_with_their_scheme(encoder: Encoder) -> None:
    with pytest.raises(UsageError, match=r"f:1: label 'PER' is not in task.labels.*scheme=IO"):
        ner().check([Example("f:1", words=("a",), columns={"ner": ("PER",)})], "data.sources.x")
