from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.tolerance import summation_tolerance
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import LoadedSource
from xlt.data.streams import stream
from xlt.engine.evaluation import evaluate
from xlt.errors import UsageError
from xlt.tasks.mlm import MaskedLanguageModelling


def task(max_length: int = 32, share: float = 0.15, packing: bool = False) -> MaskedLanguageModelling:
    return MaskedLanguageModelling(max_length, share, packing)


def lines(count: int, words: int = 6) -> list[Example]:
    texts = [" ".join(f"b{'aeiou'[(n + m) % 5]}n{m}" for m in range(words)) for n in range(count)]
    return [Example(f"f:{number}", text) for number, text in enumerate(texts)]


@pytest.fixture(scope="module")
def masked(encoder: Encoder) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Ids of a large batch before masking, and the batch."""
    features = task(40).features(lines(1500, 8), encoder)
    batch = task(40).collate(features, encoder, stream(1, "masks"))
    width = max(len(feature["input_ids"]) for feature in features)
    ids = torch.tensor([f["input_ids"] + [encoder.pad_id] * (width - len(f["input_ids"])) for f in features])
    return ids, batch


def test_fifteen_of_a_hundred_pieces_are_chosen(masked: Any, encoder: Encoder) -> None:
    ids, batch = masked
    pieces = ~torch.isin(ids, torch.tensor(sorted(encoder.special)))
    count = int(pieces.sum())
    chosen = int((batch["labels"] != -100).sum())
    assert count > 20000
    assert abs(chosen / count - 0.15) < 4 * math.sqrt(0.15 * 0.85 / count)


def test_of_those_chosen_80_are_masked_10_random_and_10_stay(masked: Any, encoder: Encoder) -> None:
    ids, batch = masked
    chosen = batch["labels"] != -100
    before, after = ids[chosen], batch["input_ids"][chosen]
    assert torch.equal(batch["labels"][chosen], before)
    count, size = len(before), len(encoder.tokenizer)
    mask = (after == encoder.tokenizer.mask_token_id).float().mean().item()
    same = (after == before).float().mean().item()
    # A random piece is the mask token or the old piece once in `size`.
    for share, expected in ((mask, 0.8 + 0.1 / size), (same, 0.1 + 0.1 / size), (1 - mask - same, 0.1 - 0.2 / size)):
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / count)


def test_special_tokens_and_padding_are_never_chosen_and_nothing_else_is_touched(masked: Any, encoder: Encoder) -> None:
    ids, batch = masked
    special = torch.isin(ids, torch.tensor(sorted(encoder.special)))
    assert (batch["labels"][special] == -100).all()
    assert torch.equal(batch["input_ids"][batch["labels"] == -100], ids[batch["labels"] == -100])
    assert torch.equal(batch["attention_mask"], (ids != encoder.pad_id).long())


def test_random_pieces_come_from_the_whole_vocabulary(masked: Any, encoder: Encoder) -> None:
    ids, batch = masked
    chosen = batch["labels"] != -100
    changed = batch["input_ids"][chosen & (batch["input_ids"] != ids)]
    drawn = changed[changed != encoder.tokenizer.mask_token_id]
    assert drawn.min() < 20 and drawn.max() > len(encoder.tokenizer) - 20
    assert len(drawn.unique()) > len(encoder.tokenizer) / 3


def test_masks_are_those_of_the_generator(encoder: Encoder) -> None:
    features = task().features(lines(20), encoder)

    def batch(*name: object) -> torch.Tensor:
        return task().collate(features, encoder, stream(1, *name))["input_ids"]

    assert torch.equal(batch("step", 1), batch("step", 1))
    assert not torch.equal(batch("step", 1), batch("step", 2))


def test_an_evaluation_masks_the_same_pieces_each_time(
    encoder: Encoder, make_model: Callable[..., Any], make_task: Callable[..., Any]
) -> None:
    model = make_model(make_task("mlm"))
    source = LoadedSource("s", "eng", task().features(lines(30), encoder))
    first, second = (evaluate(model, task(), [source], encoder, 8, "fp32") for _ in range(2))
    assert first == second
    assert first["loss"] > 0


def test_a_batch_of_a_few_pieces_still_has_one_to_learn_from(encoder: Encoder) -> None:
    features = task(share=1e-9).features([Example("f:1", "bun")], encoder)
    for number in range(5):
        batch = task(share=1e-9).collate(features, encoder, stream(number, "m"))
        assert int((batch["labels"] != -100).sum()) == 1
        assert batch["labels"][0, 0] == -100  # not the special token before it


@pytest.mark.parametrize("packing", [False, True])
def test_no_piece_of_a_long_line_is_lost(packing: bool, encoder: Encoder) -> None:
    examples = [*lines(3, 40), Example("f:x", "  "), *lines(2, 1)]
    features = task(packing=packing).features(examples, encoder)
    assert all(2 <= len(feature["input_ids"]) <= 32 for feature in features[:-1])
    kept = [token for f in features for token in f["input_ids"] if token not in encoder.special]
    assert kept == [token for line in encoder.lines([str(e.text) for e in examples]) for token in line]


def test_lines_are_joined_into_full_sequences_where_packing_is_asked_for(encoder: Encoder) -> None:
    features = task(packing=True).features(lines(10), encoder)
    assert [len(feature["input_ids"]) for feature in features[:-1]] == [32] * (len(features) - 1)
    joined = [token for feature in features for token in feature["input_ids"]]
    assert joined == [token for line in encoder.lines([str(e.text) for e in lines(10)]) for token in encoder.wrap(line)]


def test_each_line_is_a_sequence_of_its_own_where_it_is_not(encoder: Encoder) -> None:
    features = task(64).features(lines(10), encoder)
    assert [f["input_ids"] for f in features] == [
        encoder.wrap(line) for line in encoder.lines([str(e.text) for e in lines(10)])
    ]


def test_metrics_of_a_worked_example() -> None:
    found = task().metrics([(2.0, 1, 4), (4.0, 2, 8)])  # loss, right, predicted
    assert found == {"loss": 0.5, "perplexity": pytest.approx(math.exp(0.5)), "accuracy": 25.0}


def test_the_loss_is_the_sum_over_chosen_pieces(
    encoder: Encoder, make_model: Callable[..., Any], make_task: Callable[..., Any]
) -> None:
    model = make_model(make_task("mlm"), dtype=torch.float64).eval()
    batch = task(share=0.5).collate(task().features(lines(6), encoder), encoder, stream(3, "m"))
    with torch.no_grad():
        logits = model.language_model_logits(model.encode(batch["input_ids"], batch["attention_mask"]))
    log_probabilities = logits.double().log_softmax(-1)
    chosen = (batch["labels"] != -100).nonzero().tolist()
    by_hand = -sum(float(log_probabilities[row, at, batch["labels"][row, at]]) for row, at in chosen)
    tolerance = summation_tolerance(len(chosen), torch.float32)  # logits are cast to float32, their losses added in it
    assert task().loss(model, batch).item() == pytest.approx(by_hand, rel=tolerance)
    assert task().targets(batch) == len(chosen)
    loss, right, count = task().score(model, batch, [])
    assert (loss, count) == (pytest.approx(by_hand, rel=tolerance), len(chosen))
    assert right == sum(int(logits[row, at].argmax() == batch["labels"][row, at]) for row, at in chosen)


def test_a_source_without_running_text_is_refused() -> None:
    with pytest.raises(UsageError, match=r"f:1: .*no running text.* mlm .*data\.sources\.x"):
        task().check([Example("f:1", words=("a",))], "data.sources.x")
