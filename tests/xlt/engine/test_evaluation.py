"""The one evaluation path."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xlt.engine.evaluation import evaluate


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
