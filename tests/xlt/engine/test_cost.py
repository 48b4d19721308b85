"""Operations of an example, counted on paper: products of the layers, of attention and of the head."""

from __future__ import annotations

import pytest
import torch

from xlt.data.mix import LoadedSource
from xlt.engine.cost import Counted, counted_before, inference_cost
from xlt.models.sublayers import find_blocks
from xlt.modules import ModuleHeader, ModuleStack, SparseDelta
from xlt.modules.adapter import Adapter, BottleneckAdapter
from xlt.modules.sparse_delta import Entries


def _by_hand(tokens: int, layers: int, words: int, labels: int = 3, hidden: int = 32, inner: int = 64) -> int:
    """A product of (m, k) and (k, n) is 2 m k n operations; attention is two, of tokens and tokens over hidden."""
    block = 2 * tokens * (4 * hidden * hidden + 2 * hidden * inner) + 2 * 2 * tokens * tokens * hidden
    return layers * block + 2 * words * hidden * labels


def test_operations_are_those_on_paper(make_model, make_task, make_source, encoder) -> None:
    task = make_task("tagging")
    model, source = make_model(task), make_source(task, "eng", examples=1)
    (row,) = source.features
    words = sum(label != -100 for label in row["labels"])
    found = inference_cost(model, task, source, encoder)
    assert found["flops"] == _by_hand(len(row["input_ids"]), 2, words)
    assert found["parameters"] == sum(p.numel() for p in model.backbone.parameters())


def test_it_is_the_mean_over_rows_spread_over_the_source(make_model, make_task, make_source, encoder) -> None:
    task = make_task("tagging")
    model, source = make_model(task), make_source(task, "eng", examples=3)
    alone = [
        inference_cost(model, task, LoadedSource("eng", "eng", [row], 1), encoder)["flops"] for row in source.features
    ]
    assert inference_cost(model, task, source, encoder)["flops"] == pytest.approx(sum(alone) / 3)
    model.train()
    inference_cost(model, task, source, encoder)
    assert model.training


@pytest.mark.parametrize("kind", ["tagging", "mlm"])
def test_rows_alike_are_counted_once_and_the_cost_stays_the_same(
    kind: str, make_model, make_task, make_source, encoder
) -> None:
    task = make_task(kind)
    model, counted = make_model(task), Counted()
    passes = []
    model.backbone.register_forward_hook(lambda module, inputs, output: passes.append(1))
    sources = [make_source(task, language, examples=40) for language in ("eng", "deu", "fao")]
    alone = [inference_cost(model, task, source, encoder) for source in sources]
    of_each_alone = len(passes)
    passes.clear()
    assert [inference_cost(model, task, source, encoder, counted) for source in sources] == alone
    assert len(passes) == len(counted.bodies) <= len(counted.batches) < of_each_alone
    passes.clear()
    inference_cost(model, task, sources[0], encoder, counted)
    assert passes == []


def test_rows_of_one_length_go_through_the_body_once(make_model, make_task, make_source, encoder) -> None:
    task = make_task("tagging")
    model, (row,) = make_model(task), make_source(task, "eng", examples=1).features
    places = [at for at, label in enumerate(row["labels"]) if label != -100]
    fewer = [-100 if at == places[0] else label for at, label in enumerate(row["labels"])]
    sources = [LoadedSource("eng", "eng", [one], 1) for one in (row, row | {"labels": fewer})]
    alone = [inference_cost(model, task, source, encoder) for source in sources]
    counted, passes = Counted(), []
    model.backbone.register_forward_hook(lambda module, inputs, output: passes.append(1))
    assert [inference_cost(model, task, source, encoder, counted) for source in sources] == alone
    assert len(passes) == 1 and alone[0]["flops"] - alone[1]["flops"] == 2 * 32 * 3  # a word of the head
    assert "encode" not in vars(model)


def test_models_that_differ_in_their_weights_only_are_counted_together(
    make_model, make_task, make_source, encoder
) -> None:
    task = make_task("tagging")
    models = [make_model(task, seed=seed) for seed in (1, 2)]
    source = make_source(task, "eng", examples=3)
    shape = models[0].backbone.embeddings.word_embeddings.weight.shape
    header = ModuleHeader(kind="sparse_delta", method="lt_sft", base_model="tiny", base_hash="hash")
    known = []
    for model, count in zip(models, (1, 2), strict=True):
        entries = Entries(torch.arange(count), torch.ones(count), shape)
        module = SparseDelta(header, {"backbone.embeddings.word_embeddings.weight": entries})
        ModuleStack(model).apply(module)
        known.append(counted_before(model, task, [module]))
    cost = inference_cost(models[0], task, source, encoder, known[0])
    assert known[0] is known[1] and known[0].batches
    assert inference_cost(models[1], task, source, encoder, known[1]) == cost


def test_a_parameter_of_another_size_is_another_model(make_model, make_task) -> None:
    """Also one that the text of the model does not show, such as that of a biaffine head."""
    task = make_task("tagging")
    known = []
    for size in (2, 3):
        model = make_model(task)
        model.head.register_parameter("biaffine", torch.nn.Parameter(torch.zeros(size, 4, 4)))
        known.append((str(model), counted_before(model, task, [])))
    assert known[0][0] == known[1][0] and known[0][1] is not known[1][1]


def test_adapters_of_other_sizes_or_places_are_counted_anew(make_model, make_task, make_source, encoder) -> None:
    task = make_task("tagging")
    model, source = make_model(task), make_source(task, "eng", examples=1)
    bare = inference_cost(model, task, source, encoder, counted_before(model, task, []))["flops"]
    header = ModuleHeader(kind="adapter", method="mad_x", base_model="tiny", base_hash="hash")
    first, second = (block.path for block in find_blocks(model))
    added = []
    for paths, size in (([first], 4), ([first], 8), ([first, second], 8), ([second], 8)):
        adapters = {path: BottleneckAdapter(32, size, "relu") for path in paths}
        module = Adapter(header, adapters, dict.fromkeys(paths, "sum"))
        ModuleStack(model).set([module])
        found = inference_cost(model, task, source, encoder, counted_before(model, task, [module]))
        added.append(found["flops"] - bare)
    one = 2 * 2 * len(source.features[0]["input_ids"]) * 32  # two products with a bottleneck of one unit
    assert added == [4 * one, 8 * one, 16 * one, 8 * one]
