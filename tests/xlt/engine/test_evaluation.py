"""The one evaluation path."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from xlt.engine import evaluation
from xlt.engine.evaluation import batches, evaluate, predictions


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_accuracy_is_over_all_words_whatever_the_batches(
    batch_size: int, make_model, make_task, make_source, encoder
) -> None:
    task = make_task("tagging")
    model = make_model(task)
    torch.nn.init.normal_(model.head.classifier.weight, generator=torch.Generator().manual_seed(4))
    sources = [make_source(task, "eng", 9), make_source(task, "deu", 5)]
    right = words = 0
    model.eval()
    for source in sources:  # one sentence at a time, nothing padded
        for row in source.features:
            hidden = model.encode(torch.tensor([row["input_ids"]]), torch.ones(1, len(row["input_ids"]), dtype=int))[0]
            for position, label in enumerate(row["labels"]):
                if label != -100:
                    words += 1
                    right += int(model.head(hidden[position]).argmax() == label)
    found = evaluate(model, task, sources, encoder, batch_size, "fp32")
    assert found == {"accuracy": pytest.approx(100 * right / words), "words": words}
    assert 0 < right < words


def test_an_upsampled_source_is_evaluated_once(make_model, make_task, make_source, encoder) -> None:
    task = make_task("tagging")
    sources = [make_source(task, "eng", 9, upsample=upsample) for upsample in (1, 3)]
    found = [evaluate(make_model(task), task, [source], encoder, 4, "fp32") for source in sources]
    assert found[0] == found[1]


def test_masking_is_the_same_at_every_evaluation(make_model, make_task, make_source, encoder) -> None:
    task = make_task("mlm")
    model, sources = make_model(task, dropout=0.5), [make_source(task, "eng", 9)]
    model.train()
    torch.manual_seed(1)
    first = evaluate(model, task, sources, encoder, 4, "fp32")
    torch.manual_seed(2)
    assert evaluate(model, task, sources, encoder, 4, "fp32") == first


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_its_mode_also_when_evaluation_fails(
    training: bool, make_model, make_task, make_source, encoder
) -> None:
    task = make_task("tagging")
    model, sources = make_model(task), [make_source(task, "eng", 3)]
    model.train(training)
    evaluate(model, task, sources, encoder, 4, "fp32")
    assert model.training is training

    def fail(*_: Any) -> None:
        assert not model.training
        raise RuntimeError("broken")

    task.score = fail
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(model, task, sources, encoder, 4, "fp32")
    assert model.training is training


def test_no_gradient_is_recorded(make_model, make_task, make_source, encoder) -> None:
    task = make_task("tagging")
    model, recorded = make_model(task), []
    model.head.register_forward_hook(lambda module, inputs, output: recorded.append(output.requires_grad))
    evaluate(model, task, [make_source(task, "eng", 3)], encoder, 4, "fp32")
    assert recorded == [False]


def test_the_precision_of_the_recipe_is_used(make_model, make_task, make_source, encoder) -> None:
    task = make_task("tagging")
    model, dtypes = make_model(task), []
    model.head.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    for precision in ("fp32", "bf16"):
        evaluate(model, task, [make_source(task, "eng", 3)], encoder, 4, precision)
    assert dtypes == [torch.float32, torch.bfloat16]


def rows_of(lengths: Sequence[int]) -> list[dict[str, Any]]:
    return [{"input_ids": [1] * length} for length in lengths]


def test_a_batch_ends_before_a_much_shorter_row_once_it_is_large_enough() -> None:
    found = batches(rows_of([20, 100, 99, 50, 91, 90, 89, 49, 5, 4]), batch_size=64, fewest_tokens=100)
    assert [[len(row["input_ids"]) for row in batch] for batch in found] == [
        [100, 99, 91, 90],  # 89 is more than a tenth shorter than 100
        [89, 50],  # 89 tokens are too few for a batch
        [49, 20, 5],  # and so are 49 and 98
        [4],
    ]
    small = batches(rows_of([7, 7, 7, 7, 7]), batch_size=2, fewest_tokens=1)
    assert [len(batch) for batch in small] == [2, 2, 1]


def test_batches_of_random_draws_are_full_on_every_device() -> None:
    found = batches(rows_of([3, 100, 50, 20, 10]), batch_size=2, fewest_tokens=None)
    assert [[len(row["input_ids"]) for row in batch] for batch in found] == [[100, 50], [20, 10], [3]]


def test_little_of_what_is_computed_is_padding() -> None:
    draw = random.Random(1)
    rows = rows_of([max(4, round(draw.gauss(50, 20))) for _ in range(204)])
    tokens = sum(len(row["input_ids"]) for row in rows)
    computed = {
        fewest: sum(len(batch) * len(batch[0]["input_ids"]) for batch in batches(rows, 64, fewest))
        for fewest in (256, None)
    }
    assert computed[256] < 1.08 * tokens < 1.25 * tokens < computed[None]


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Makes small models be evaluated in threads; the value holds the names of the threads that computed."""
    names: set[str] = set()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(evaluation, "_LEAST_WORK", 0)
    yield names
    assert torch.get_num_threads() == 2, "the number of threads is not what it was"
    torch.set_num_threads(before)


def _noting(task: Any, names: set[str]) -> Any:
    predict = task.predict

    def noting(*arguments: Any) -> Any:
        names.add(threading.current_thread().name)
        assert not torch.is_grad_enabled()
        return predict(*arguments)

    task.predict = noting
    return task


def test_batches_computed_at_once_give_the_predictions_in_the_order_of_the_rows(
    in_threads: set[str], make_model, make_task, make_source, encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = _noting(make_task("tagging"), in_threads)
    model, source = make_model(task), make_source(task, "eng", 40)
    torch.nn.init.normal_(model.head.classifier.weight, generator=torch.Generator().manual_seed(4))

    def evaluated() -> tuple[dict[str, float], list[Any], list[Any]]:
        rows, predicted = [], []
        keep = lambda part, of_part: (rows.extend(part), predicted.extend(of_part))  # noqa: E731
        return evaluate(model, task, [source], encoder, 3, "fp32", keep=keep), rows, predicted

    at_once = evaluated()
    assert len(in_threads) == 2 and all(name.startswith("evaluation") for name in in_threads)
    monkeypatch.setattr(evaluation, "_LEAST_WORK", 1e30)
    in_threads.clear()
    assert evaluated() == at_once
    assert in_threads == {threading.main_thread().name}
    parts = predictions(model, task, source.features, encoder, 3, "fp32")
    assert [one for _, part in parts for one in part] == at_once[2]


def test_masks_are_drawn_in_the_order_of_the_batches_however_many_are_computed_at_once(
    in_threads: set[str], make_model, make_task, make_source, encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task("mlm")
    model, sources = make_model(task), [make_source(task, "eng", 40)]
    found = evaluate(model, task, sources, encoder, 3, "fp32")
    monkeypatch.setattr(evaluation, "_LEAST_WORK", 1e30)
    assert evaluate(model, task, sources, encoder, 3, "fp32") == pytest.approx(found, rel=1e-5)


def test_an_error_in_one_of_several_batches_is_raised_and_the_threads_are_given_back(
    in_threads: set[str], make_model, make_task, make_source, encoder
) -> None:
    task = make_task("tagging")

    def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    task.score = fail
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(make_model(task), task, [make_source(task, "eng", 20)], encoder, 3, "fp32")


def test_a_model_that_writes_texts_is_evaluated_batch_by_batch(
    in_threads: set[str], make_model, make_task, make_source, encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = _noting(make_task("tagging"), in_threads)
    model = make_model(task)
    monkeypatch.setitem(model.__dict__, "causal", True)
    evaluate(model, task, [make_source(task, "eng", 20)], encoder, 3, "fp32")
    assert in_threads == {threading.main_thread().name}
