"""The parser: its scores, its loss and what it finds, against the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import xlt.tasks.parsing
from tests.parsed_sentences import RELATIONS, Given, batch_of, parsing_task, random_head, some_sentences
from tests.tolerance import summation_tolerance
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.models.transfer import TransferModel
from xlt.tasks.parsing import ParsingHead


def paper_example() -> tuple[Given, dict[str, Tensor]]:
    """Root (1, 0); first word of the pieces (2, 0) and (0, 2); second word (0, 2); what follows must not matter."""
    head = ParsingHead(2, 2, 0.0)
    with torch.no_grad():
        head.arcs.copy_(torch.tensor([[1.0, 0], [0, 1], [0.5, 0]]))
        head.relations[0, 2, 2] = 1  # whatever the words
        head.relations[1, 0, 1] = 1  # x1 * h2
        head.relations[1, 1, 2] = 0.5  # x2 / 2
        head.relations[1, 2, 0] = 0.25  # h1 / 4
    hidden = torch.tensor([[[1.0, 0], [2, 0], [0, 2], [0, 2], [90, 90], [70, -70]]])
    batch = {
        "input_ids": torch.zeros(1, 6, dtype=torch.int64),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0]]),
        "word": torch.tensor([[0, 1, 1, 2, -1, -1]]),
        "heads": torch.tensor([[0, 1, -100]]),
        "relations": torch.tensor([[0, 1, -100]]),
    }
    return Given(hidden, head), batch


def test_loss_of_an_example_on_paper() -> None:
    model, batch = paper_example()
    # Words: (1, 1) and (0, 2). [x; 1] U: (1.5, 1) and (0.5, 2).
    # Heads of the first: root 1.5, second 2. Of the second: root 0.5, first 2.5.
    arcs = math.log1p(math.exp(2 - 1.5)) + math.log1p(math.exp(0.5 - 2.5))
    # Relations: 1, and of the first under the root 0 + 0.5 + 0.25, of the second under the first 0 + 1 + 0.25.
    relations = math.log1p(math.exp(0.75 - 1)) + math.log1p(math.exp(1 - 1.25))
    assert parsing_task().targets(batch) == 2
    # Four losses in float32, of two classes each.
    tolerance = summation_tolerance(4 * 2, torch.float32)
    assert parsing_task().loss(model, batch).item() == pytest.approx(arcs + relations, rel=tolerance)


def test_greedy_takes_each_words_best_head_and_tree_the_best_tree() -> None:
    model, batch = paper_example()
    heads, relations, *_ = parsing_task().parse(model, batch)
    assert heads[0, :2].tolist() == [2, 1]  # a cycle
    # First under the second: 1 * 2 + 0.5 + 0 > 1. Second under the first: 1.25 > 1.
    assert relations[0, :2].tolist() == [1, 1]
    assert parsing_task().score(model, batch, []) == (1, 1, 2)
    heads, relations, *_ = parsing_task(decoding="tree").parse(model, batch)
    assert heads[0, :2].tolist() == [0, 1]
    assert relations[0, :2].tolist() == [0, 1]
    assert parsing_task(decoding="tree").score(model, batch, []) == (2, 2, 2)


def test_a_relation_counts_only_with_its_head_and_a_head_without_its_relation() -> None:
    model, batch = paper_example()
    batch["relations"][0, 1] = 0
    assert parsing_task(decoding="tree").score(model, batch, []) == (2, 1, 2)
    assert parsing_task().score(model, batch, []) == (1, 0, 2)
    assert parsing_task().metrics([(2, 1, 2), (1, 0, 6)]) == {"uas": 37.5, "las": 12.5, "words": 8.0}


def plain_definition(
    model: TransferModel, examples: Sequence[Example], encoder: Encoder
) -> tuple[float, list[list[int]], list[list[int]]]:
    """Loss, greedy heads and relations, one sentence, word, head and relation at a time, from the formulas."""
    head = model.head
    assert isinstance(head, ParsingHead)
    loss, all_heads, all_relations = 0.0, [], []
    for sentence in examples:
        pieces = encoder.words([sentence.words or ()], [None])[0]
        ids = torch.tensor([encoder.wrap([piece for word in pieces for piece in word])])
        hidden = model.encode(ids, torch.ones_like(ids))[0]
        vectors, at = [hidden[0]], len(encoder.prefix)
        for word in pieces:
            vectors.append(sum(hidden[at + number] for number in range(len(word))) / len(word))  # type: ignore[arg-type]
            at += len(word)
        one = torch.ones(1, dtype=hidden.dtype)
        heads, relations = [], []
        for number in range(1, len(vectors)):
            x = torch.cat([vectors[number], one])
            arcs = {j: (x @ head.arcs @ vectors[j]).item() for j in range(len(vectors)) if j != number}

            gold = int(sentence.columns["head"][number - 1])
            right = RELATIONS.index(sentence.columns["deprel"][number - 1])
            gold_scores = [(x @ weight @ torch.cat([vectors[gold], one])).item() for weight in head.relations]
            loss += math.log(sum(math.exp(score) for score in arcs.values())) - arcs[gold]
            loss += math.log(sum(math.exp(score) for score in gold_scores)) - gold_scores[right]
            heads.append(max(arcs, key=lambda j: arcs[j]))
            found = [(x @ weight @ torch.cat([vectors[heads[-1]], one])).item() for weight in head.relations]
            relations.append(found.index(max(found)))
        all_heads.append(heads)
        all_relations.append(relations)
    return loss, all_heads, all_relations


def test_scores_and_loss_are_those_of_the_formulas(make_model: Callable[..., TransferModel], encoder: Encoder) -> None:
    parsing, examples = parsing_task(), some_sentences(6)
    assert (
        max(len(word) for words in encoder.words([e.words or () for e in examples], [None] * 6) for word in words) > 2
    )
    model = make_model(parsing, dtype=torch.float64).eval()
    random_head(model.head)
    with torch.no_grad():
        loss, heads, relations = plain_definition(model, examples, encoder)
        batch = batch_of(parsing, examples, encoder)
        # float64 throughout; padding changes the order of summation
        assert parsing.loss(model, batch).item() == pytest.approx(loss, rel=1e-9)
        found = parsing.parse(model, batch)
    for row, sentence in enumerate(examples):
        count = len(sentence.words or ())
        assert found[0][row, :count].tolist() == heads[row]
        assert found[1][row, :count].tolist() == relations[row]


def test_a_new_head_finds_all_trees_and_relations_alike(
    make_model: Callable[..., TransferModel], encoder: Encoder
) -> None:
    parsing = parsing_task()
    words = some_sentences(5)
    expected = sum(len(e.words or ()) * (math.log(len(e.words or ())) + math.log(len(RELATIONS))) for e in words)
    batch = batch_of(parsing, words, encoder)
    # Each word has two losses, added in float32.
    tolerance = summation_tolerance(2 * parsing.targets(batch), torch.float32)
    assert parsing.loss(make_model(parsing), batch).item() == pytest.approx(expected, rel=tolerance)


def test_a_batch_scores_as_its_sentences_do_alone(make_model: Callable[..., TransferModel], encoder: Encoder) -> None:
    for decoding in ("greedy", "tree"):
        parsing, examples = parsing_task(decoding=decoding), some_sentences(8, seed=3)
        model = make_model(parsing, dtype=torch.float64).eval()
        random_head(model.head)
        alone = [batch_of(parsing, [one], encoder) for one in examples]
        together = batch_of(parsing, examples, encoder)
        loss = sum(parsing.loss(model, batch).item() for batch in alone)
        assert parsing.loss(model, together).item() == pytest.approx(loss, rel=1e-9)
        scores = [parsing.score(model, batch, []) for batch in alone]
        assert parsing.score(model, together, []) == tuple(map(sum, zip(*scores, strict=True)))
        assert sum(parsing.targets(batch) for batch in alone) == parsing.targets(together)


def test_every_part_learns(make_model: Callable[..., TransferModel], encoder: Encoder) -> None:
    parsing = parsing_task()
    model = make_model(parsing)
    random_head(model.head)
    parsing.loss(model, batch_of(parsing, some_sentences(8), encoder)).backward()
    head = model.head
    assert isinstance(head, ParsingHead)
    assert head.arcs.grad is not None and head.arcs.grad.ne(0).all(1).all()  # the bias row, too
    assert head.relations.grad is not None and head.relations.grad.ne(0).all()
    for name, parameter in model.backbone.named_parameters():
        if "pooler" not in name and "token_type" not in name:
            assert parameter.grad is not None and parameter.grad.ne(0).any(), name


def test_gradients_are_those_of_the_formula() -> None:
    head = ParsingHead(3, 2, 0.0).double()
    random_head(head)
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(2, 6, 3, dtype=torch.float64, generator=generator).requires_grad_()
    batch = {
        "input_ids": torch.zeros(2, 6, dtype=torch.int64),
        "attention_mask": torch.ones(2, 6, dtype=torch.int64),
        "word": torch.tensor([[0, 1, 1, 2, 3, -1], [0, 1, 2, 2, -1, -1]]),
        "heads": torch.tensor([[2, 0, 1], [0, 1, -100]]),
        "relations": torch.tensor([[1, 0, 1], [0, 1, -100]]),
    }

    def loss(hidden: Tensor, *parameters: Tensor) -> Tensor:
        return parsing_task().loss(Given(hidden, head), batch)

    assert torch.autograd.gradcheck(loss, (hidden, *head.parameters()))


class _Largest(TorchDispatchMode):
    """Remembers the entries of the largest tensor that any operation made."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.largest = max(self.largest, out.numel())
        return out


def test_relations_are_scored_for_one_head_a_word(encoder: Encoder) -> None:
    relations = [f"r{number}" for number in range(60)]
    parsing = parsing_task(max_length=400, relations=relations)
    batch = batch_of(parsing, some_sentences(12, longest=40, relations=relations), encoder)
    sentences, words = batch["heads"].shape
    hidden = torch.randn(*batch["input_ids"].shape, 4, generator=torch.Generator().manual_seed(1))
    model = Given(hidden, parsing.head(4))
    for work in (parsing.loss, parsing.parse):
        with _Largest() as seen:
            work(model, batch)
        assert 0 < seen.largest < sentences * words * words * len(relations) / 4


def test_words_scored_in_portions_score_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    head = ParsingHead(4, 3, 0.0).double()
    random_head(head)
    one, other = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = head.relation_scores(one, other).detach()
    monkeypatch.setattr(xlt.tasks.parsing, "_CHUNK_WORDS", 3)
    tolerance = summation_tolerance(5 * 5, torch.float64) * float(whole.abs().max())  # vectors of 4 and a 1, twice
    torch.testing.assert_close(head.relation_scores(one, other).detach(), whole, rtol=0, atol=tolerance)
    assert head.relation_scores(one[:0], other[:0]).shape == (0, 3)


def test_the_head_computes_in_float32_under_autocast() -> None:
    model, batch = paper_example()
    random_head(model.head, 1.0)
    parsing, rough = parsing_task(), Given(model.hidden.bfloat16(), model.head)  # these vectors have few digits
    plain = parsing.loss(model, batch)
    for one in (model, rough):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            same = parsing.loss(one, batch)
        assert same.dtype == torch.float32 and torch.equal(same, plain)


def test_dropout_acts_in_training_only() -> None:
    model, batch = paper_example()
    assert model.head is not None
    parsing = parsing_task()
    plain = parsing.loss(model, batch)
    model.head.dropout.p = 0.5  # type: ignore[union-attr]
    torch.manual_seed(0)
    losses = {parsing.loss(model.train(), batch).item() for _ in range(8)}
    assert len(losses) > 1
    assert torch.equal(parsing.loss(model.eval(), batch), plain)
