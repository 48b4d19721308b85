from __future__ import annotations

import pytest
import torch
from torch import nn

from xlt.config import UsageError
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.models.transfer import TransferModel
from xlt.tasks.tagging import Tagging

LABELS = ["noun", "verb", "other"]


def task(max_length: int = 16) -> Tagging:
    return Tagging("pos", "upos", LABELS, max_length, dropout=0.0)


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
    with pytest.raises(UsageError, match=r"file:1: no column upos; source data.sources.x cannot serve pos"):
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
    assert tagging.score(model, batch) == (1, 3)


def test_accuracy_is_over_words_in_percent() -> None:
    assert task().metrics([(3, 4), (0, 4)]) == {"accuracy": 37.5, "words": 8.0}


def test_a_head_is_drawn_from_torchs_state_and_scores_every_label() -> None:
    torch.manual_seed(3)
    first = task().head(8)
    torch.manual_seed(3)
    second = task().head(8)
    assert torch.equal(first.classifier.weight, second.classifier.weight)  # type: ignore[union-attr,arg-type]
    assert first(torch.zeros(2, 5, 8)).shape == (2, 5, 3)
    assert task().labels() == LABELS
