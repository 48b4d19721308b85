from __future__ import annotations

import dataclasses
import itertools
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedTokenizerFast
from udtools import udeval

import xlt.tasks.parsing
from tests.source_configs import source_config
from xlt.compose import compose, hydra_ready
from xlt.config import UsageError
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import LoadedSource
from xlt.data.readers import conllu
from xlt.engine.activation import LanguageActivation
from xlt.engine.evaluation import evaluate
from xlt.engine.training import Trainer
from xlt.models.transfer import TransferModel
from xlt.models.vocabulary import SPECIAL_TOKENS
from xlt.tasks.parsing import Parsing, ParsingHead

RELATIONS = ["root", "nsubj", "obj", "amod"]


def task(max_length: int = 64, decoding: str = "greedy", relations: Sequence[str] = RELATIONS) -> Parsing:
    return Parsing(list(relations), decoding, max_length, dropout=0.0)


def example(words: Sequence[str], heads: Sequence[object], relations: Sequence[str], place: str = "file:1") -> Example:
    return Example(place, None, tuple(words), {"head": tuple(map(str, heads)), "deprel": tuple(relations)})


def some_sentences(count: int, seed: int = 0, longest: int = 6, relations: Sequence[str] = RELATIONS) -> list[Example]:
    """Random trees over random words, of one piece and of many."""
    draw = random.Random(seed)
    result = []
    for number in range(count):
        length = draw.randint(1, longest)
        order = draw.sample(range(1, length + 1), length)
        heads = {word: draw.choice(order[:at]) if at else 0 for at, word in enumerate(order)}
        words = ["".join(draw.choice("abnstqz") for _ in range(draw.randint(1, 7))) for _ in range(length)]
        labels = [draw.choice(relations) for _ in range(length)]
        result.append(example(words, [heads[word] for word in range(1, length + 1)], labels, f"file:{number}"))
    return result


def batch_of(parsing: Parsing, examples: Sequence[Example], encoder: Encoder) -> dict[str, Tensor]:
    return parsing.collate(parsing.features(examples, encoder), encoder, torch.Generator())


def random_head(head: nn.Module | None, scale: float = 0.3) -> None:
    assert head is not None
    generator = torch.Generator().manual_seed(5)
    for parameter in head.parameters():
        parameter.data.normal_(0, scale, generator=generator)


class _Given(TransferModel):
    """An encoder whose output is given."""

    def __init__(self, hidden: Tensor, head: nn.Module | None) -> None:
        nn.Module.__init__(self)
        self.hidden, self.head = hidden, head

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.hidden


def paper_example() -> tuple[_Given, dict[str, Tensor]]:
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
    return _Given(hidden, head), batch


def test_loss_of_an_example_on_paper() -> None:
    model, batch = paper_example()
    # Words: (1, 1) and (0, 2). [x; 1] U: (1.5, 1) and (0.5, 2).
    # Heads of the first: root 1.5, second 2. Of the second: root 0.5, first 2.5.
    arcs = math.log1p(math.exp(2 - 1.5)) + math.log1p(math.exp(0.5 - 2.5))
    # Relations: 1, and of the first under the root 0 + 0.5 + 0.25, of the second under the first 0 + 1 + 0.25.
    relations = math.log1p(math.exp(0.75 - 1)) + math.log1p(math.exp(1 - 1.25))
    assert task().targets(batch) == 2
    assert task().loss(model, batch).item() == pytest.approx(arcs + relations, rel=1e-6)


def test_greedy_takes_each_words_best_head_and_tree_the_best_tree() -> None:
    model, batch = paper_example()
    heads, relations = task().predict(model, batch)
    assert heads[0, :2].tolist() == [2, 1]  # a cycle
    # First under the second: 1 * 2 + 0.5 + 0 > 1. Second under the first: 1.25 > 1.
    assert relations[0, :2].tolist() == [1, 1]
    assert task().score(model, batch, []) == (1, 1, 2)
    heads, relations = task(decoding="tree").predict(model, batch)
    assert heads[0, :2].tolist() == [0, 1]
    assert relations[0, :2].tolist() == [0, 1]
    assert task(decoding="tree").score(model, batch, []) == (2, 2, 2)


def test_a_relation_counts_only_with_its_head_and_a_head_without_its_relation() -> None:
    model, batch = paper_example()
    batch["relations"][0, 1] = 0
    assert task(decoding="tree").score(model, batch, []) == (2, 1, 2)
    assert task().score(model, batch, []) == (1, 0, 2)
    assert task().metrics([(2, 1, 2), (1, 0, 6)]) == {"uas": 37.5, "las": 12.5, "words": 8.0}


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
    parsing, examples = task(), some_sentences(6)
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
        found = parsing.predict(model, batch)
    for row, sentence in enumerate(examples):
        count = len(sentence.words or ())
        assert found[0][row, :count].tolist() == heads[row]
        assert found[1][row, :count].tolist() == relations[row]


def test_a_new_head_finds_all_trees_and_relations_alike(
    make_model: Callable[..., TransferModel], encoder: Encoder
) -> None:
    parsing = task()
    words = some_sentences(5)
    expected = sum(len(e.words or ()) * (math.log(len(e.words or ())) + math.log(len(RELATIONS))) for e in words)
    assert parsing.loss(make_model(parsing), batch_of(parsing, words, encoder)).item() == pytest.approx(expected)


def test_a_batch_scores_as_its_sentences_do_alone(make_model: Callable[..., TransferModel], encoder: Encoder) -> None:
    for decoding in ("greedy", "tree"):
        parsing, examples = task(decoding=decoding), some_sentences(8, seed=3)
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
    parsing = task()
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
        return task().loss(_Given(hidden, head), batch)

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
    parsing = task(max_length=400, relations=relations)
    batch = batch_of(parsing, some_sentences(12, longest=40, relations=relations), encoder)
    sentences, words = batch["heads"].shape
    hidden = torch.randn(*batch["input_ids"].shape, 4, generator=torch.Generator().manual_seed(1))
    model = _Given(hidden, parsing.head(4))
    for work in (parsing.loss, parsing.predict):
        with _Largest() as seen:
            work(model, batch)
        assert 0 < seen.largest < sentences * words * words * len(relations) / 4


def test_words_scored_in_portions_score_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    head = ParsingHead(4, 3, 0.0)
    random_head(head)
    one, other = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(1))
    whole = head.relation_scores(one, other)
    monkeypatch.setattr(xlt.tasks.parsing, "_WORDS_AT_ONCE", 3)
    assert torch.allclose(head.relation_scores(one, other), whole, atol=1e-6)
    assert head.relation_scores(one[:0], other[:0]).shape == (0, 3)


def test_the_head_computes_in_float32_under_autocast() -> None:
    model, batch = paper_example()
    random_head(model.head, 1.0)
    parsing, rough = task(), _Given(model.hidden.bfloat16(), model.head)  # these vectors have few digits
    plain = parsing.loss(model, batch)
    for one in (model, rough):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            same = parsing.loss(one, batch)
        assert same.dtype == torch.float32 and torch.equal(same, plain)


def test_dropout_acts_in_training_only() -> None:
    model, batch = paper_example()
    assert model.head is not None
    parsing = task()
    plain = parsing.loss(model, batch)
    model.head.dropout.p = 0.5  # type: ignore[union-attr]
    torch.manual_seed(0)
    losses = {parsing.loss(model.train(), batch).item() for _ in range(8)}
    assert len(losses) > 1
    assert torch.equal(parsing.loss(model.eval(), batch), plain)


# Windows and pieces


def test_pieces_belong_to_their_words_and_the_first_position_to_the_root(encoder: Encoder) -> None:
    words = ["bun", "zzzzqqqq", "lan"]
    (row,) = task().features([example(words, [2, 0, 2], ["nsubj", "root", "obj:x"])], encoder)
    pieces = encoder.words([words], [None])[0]
    assert row["input_ids"] == encoder.wrap([piece for word in pieces for piece in word])
    expected = [number for number, word in enumerate(pieces, start=1) for _ in word]
    assert row["word"] == [0, *expected, -1]
    assert (row["heads"], row["relations"]) == ([2, 0, 2], [1, 0, 2])


def absolute(windows: Sequence[Mapping[str, Any]]) -> tuple[list[int | None], list[int]]:
    """Heads by their number in the sentence, None where the head is elsewhere, and the words of each window."""
    heads: list[int | None] = []
    sizes = []
    for window in windows:
        start = len(heads)
        heads += [None if head == -1 else head and head + start for head in window["heads"]]
        sizes.append(len(window["heads"]))
    return heads, sizes


@pytest.mark.parametrize("seed", range(6))
def test_windows_lose_no_word_and_keep_every_head_that_is_inside(seed: int, encoder: Encoder) -> None:
    (long,) = some_sentences(40, seed, longest=40)[-1:]
    windows = task(16).features([long], encoder)
    assert all(len(window["input_ids"]) == len(window["word"]) <= 16 for window in windows)
    heads, sizes = absolute(windows)
    gold = [int(head) for head in long.columns["head"]]
    assert len(heads) == len(gold)
    starts = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
    for start, end in itertools.pairwise(starts):
        for word in range(start, end):
            inside = gold[word] == 0 or start < gold[word] <= end
            assert heads[word] == (gold[word] if inside else None)
    pieces = encoder.words([long.words or ()], [None])[0]
    inner = [piece for window in windows for piece in window["input_ids"][1:-1]]
    assert inner == [piece for word in pieces for piece in word]
    for window, start in zip(windows, starts, strict=False):
        counts = [window["word"].count(number + 1) for number in range(len(window["heads"]))]
        assert counts == [len(word) for word in pieces[start : start + len(counts)]]


def test_heads_in_another_window_teach_nothing_and_count_as_wrong(
    make_model: Callable[..., TransferModel], encoder: Encoder
) -> None:
    words = [f"w{'qx' * (number % 3)}" for number in range(20)]
    star = example(words, [0, *[1] * 19], ["root", *["obj"] * 19])  # every word under the first
    parsing = task(16)
    rows = parsing.features([star], encoder)
    batch = parsing.collate(rows, encoder, torch.Generator())
    first = len(rows[0]["heads"])
    assert len(rows) > 2
    assert parsing.targets(batch) == first
    model = make_model(parsing).eval()
    random_head(model.head)
    alone = parsing.collate(rows[:1], encoder, torch.Generator())
    assert parsing.loss(model, batch).item() == pytest.approx(parsing.loss(model, alone).item(), rel=1e-5)
    scores = [parsing.score(model, parsing.collate([row], encoder, torch.Generator()), []) for row in rows]
    assert all(score[:2] == (0, 0) for score in scores[1:])
    assert sum(score[2] for score in scores) == 20
    nothing = parsing.loss(model, parsing.collate(rows[1:], encoder, torch.Generator()))
    nothing.backward()
    assert nothing.item() == 0.0


def test_a_word_longer_than_a_window_keeps_its_beginning(encoder: Encoder) -> None:
    sentence = example(["a", "qz" * 40, "b"], [2, 0, 2], ["nsubj", "root", "obj"])
    windows = task(16).features([sentence], encoder)
    assert [len(window["heads"]) for window in windows] == [1, 1, 1]
    assert [window["heads"] for window in windows] == [[-1], [0], [-1]]
    assert all(len(window["input_ids"]) <= 16 for window in windows)


def _trained(kind: str) -> Encoder:
    """A WordPiece, Unigram or byte-level BPE tokenizer of few entries, with one or two tokens before a sentence."""
    lines = [" ".join(sentence.words or ()) for sentence in some_sentences(60, seed=9)]
    special = list(SPECIAL_TOKENS.values())
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    elif kind.startswith("unigram"):
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Replace(Regex("[\x00-\x1f]"), "")
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    tokenizer.train_from_iterator(lines, trainer=trainer)
    first = "<s> <mask>" if kind == "unigram, two before" else "<s>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A </s>",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>", "<mask>")],
    )
    return Encoder(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS))


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "unigram, two before", "bpe"])
def test_words_are_means_of_their_pieces_whatever_the_tokenizer(kind: str) -> None:
    encoder, parsing = _trained(kind), task()
    # The last word consists of a character that normalisation takes away (not so in bytes).
    sentences = [*some_sentences(5, seed=4), example(["ab", "\x01"], [0, 1], ["root", "obj"])]
    batch = batch_of(parsing, sentences, encoder)
    hidden = torch.randn(*batch["input_ids"].shape, 3, generator=torch.Generator().manual_seed(1))
    vectors = ParsingHead(3, 2, 0.0).words(hidden, batch["word"], batch["heads"].shape[1])
    for row, sentence in enumerate(sentences):
        pieces = encoder.words([sentence.words or ()], [None])[0]
        assert all(pieces)
        assert torch.equal(vectors[row, 0], hidden[row, 0])
        at = len(encoder.prefix)
        for number, word in enumerate(pieces, start=1):
            assert batch["input_ids"][row, at : at + len(word)].tolist() == word
            # float32, another order of summation
            assert torch.allclose(vectors[row, number], hidden[row, at : at + len(word)].mean(0), atol=1e-6)
            at += len(word)
        assert vectors[row, len(pieces) + 1 :].eq(0).all()


def test_a_tokenizer_without_a_token_for_the_root_is_refused(encoder: Encoder) -> None:
    bare = Encoder(encoder.tokenizer)
    bare.prefix = []
    with pytest.raises(UsageError, match="no token before a sentence that could be its root"):
        task().features(some_sentences(1), bare)


def test_a_batch_is_padded_and_counts_its_words(encoder: Encoder) -> None:
    examples = [example(["bun"], [0], ["root"]), example(["bun", "lan", "mi"], [2, 0, 2], ["nsubj", "root", "obj"])]
    rows = task().features(examples, encoder)
    batch = task().collate(rows, encoder, torch.Generator())
    short, longer = (len(row["input_ids"]) for row in rows)
    assert batch["input_ids"].shape == batch["word"].shape == batch["attention_mask"].shape == (2, longer)
    assert batch["input_ids"][0, short:].eq(encoder.pad_id).all() and batch["word"][0, short:].eq(-1).all()
    assert batch["attention_mask"].sum(1).tolist() == [short, longer]
    assert batch["heads"].tolist() == [[0, -100, -100], [2, 0, 2]]
    assert batch["relations"].tolist() == [[0, -100, -100], [1, 0, 2]]
    assert task().targets(batch) == 4


# What is refused


@pytest.mark.parametrize(
    ("heads", "relations", "message"),
    [
        ("0 _", "root obj", "word 2: head '_' is not a number from 0 to 2"),
        ("0 -1", "root obj", "word 2: head '-1' is not a number from 0 to 2"),
        ("0 1.1", "root obj", "word 2: head '1.1' is not a number from 0 to 2"),
        ("0 ²", "root obj", "word 2: head '²' is not a number from 0 to 2"),
        ("3 0", "obj root", "word 1: head '3' is not a number from 0 to 2"),
        ("0 2", "root obj", "word 2: is its own head"),
        ("0 0", "root root", "2 words with head 0, must be one"),
        ("2 1", "obj obj", "0 words with head 0, must be one"),
        ("0 3 2", "root obj obj", "word 2: its heads lead back to it, not to the root"),
        ("0 1", "root _", "word 2: relation '_' is not in task.relations (root nsubj obj amod)"),
        ("0 1", "root dobj:x", "word 2: relation 'dobj:x' is not in task.relations (root nsubj obj amod)"),
    ],
)
def test_trees_that_are_none_and_unknown_relations_are_refused(heads: str, relations: str, message: str) -> None:
    words = ["a"] * len(heads.split())
    with pytest.raises(UsageError) as caught:
        task().check([example(words, heads.split(), relations.split())], "s")
    assert str(caught.value) == f"file:1: {message}"


def test_sources_without_trees_are_refused() -> None:
    with pytest.raises(UsageError, match=r"file:1: no column head; source data.sources.x cannot serve parsing"):
        task().check([Example("file:1", "text")], "data.sources.x")
    with pytest.raises(UsageError, match=r"file:1: no column deprel"):
        task().check([Example("file:1", words=("a",), columns={"head": ("0",)})], "s")


def test_subtypes_are_read_as_their_relation_and_underscores_as_words(encoder: Encoder) -> None:
    sentence = example(["_", "a"], [0, 1], ["root", "nsubj:pass"])
    task().check([sentence], "s")
    (row,) = task().features([sentence], encoder)
    assert row["relations"] == [0, 1]


def test_the_heads_inventory_is_what_modules_keep() -> None:
    assert task().labels() == RELATIONS
    head = task().head(8)
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {"arcs": (9, 8), "relations": (4, 9, 9)}


# Agreement with the evaluation of CoNLL 2018


def conll_2018(gold: Path, system: Path, *, many_roots: bool = False) -> dict[str, Any]:
    kind = {"multiple_roots_okay": many_roots}
    return udeval.evaluate(udeval.load_conllu_file(str(gold), kind), udeval.load_conllu_file(str(system), kind))


class _Says(Parsing):
    """A parser that predicts what it is told of each row, by the row's `number`."""

    said: list[tuple[list[int], list[int]]]

    def collate(self, features: Sequence[Any], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        batch = super().collate(features, encoder, generator)
        return batch | {"number": torch.tensor([row["number"] for row in features])}

    def predict(self, model: TransferModel, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        heads, relations = torch.zeros_like(batch["heads"]), torch.zeros_like(batch["heads"])
        for row, number in enumerate(batch["number"].tolist()):
            predicted = torch.tensor(self.said[number])
            heads[row, : predicted.shape[1]], relations[row, : predicted.shape[1]] = predicted
        return heads, relations


def noisy(heads: Sequence[int], share: float, draw: random.Random) -> list[int]:
    """Some words moved to another head, the tree kept: never under a word that is under them; some roots changed."""
    heads = list(heads)
    root = heads.index(0) + 1
    under_root = [word for word, head in enumerate(heads, start=1) if head == root]
    if under_root and draw.random() < share:
        heads[root - 1] = draw.choice(under_root)
        heads[heads[root - 1] - 1] = 0
    for word in range(1, len(heads) + 1):
        above = draw.randint(1, len(heads))
        node = above
        while node not in (0, word):
            node = heads[node - 1]
        if heads[word - 1] != 0 and node == 0 and draw.random() < share:
            heads[word - 1] = above
    return heads


def write_predictions(gold: Path, system: Path, predicted: Sequence[tuple[Sequence[int], Sequence[str]]]) -> None:
    """The gold file with other heads and relations; lines of multi-word tokens and empty nodes stay."""
    sentences = iter(predicted)
    lines, heads, relations = [], iter([0]), iter([""])
    fresh = True
    for line in gold.read_text(encoding="utf-8").split("\n"):
        fields = line.split("\t")
        if fields[0].isdecimal():
            if fresh:
                one = next(sentences)
                heads, relations, fresh = iter(one[0]), iter(one[1]), False
            fields[6:8] = [str(next(heads)), next(relations)]
        elif not line:
            fresh = True
        lines.append("\t".join(fields))
    system.write_text("\n".join(lines), encoding="utf-8")


def assert_agreement(found: Mapping[str, float], official: Mapping[str, Any]) -> None:
    assert found["words"] == official["Words"].gold_total
    for ours, theirs in (("uas", "UAS"), ("las", "LAS")):
        score = official[theirs]
        assert round(found[ours] * found["words"] / 100) == score.correct
        assert found[ours] == pytest.approx(100 * score.f1, rel=1e-12)
        assert f"{found[ours]:.2f}" == f"{100 * score.f1:.2f}" == f"{100 * score.aligned_accuracy:.2f}"


def agree(gold: Path, parsing: _Says, encoder: Encoder, folder: Path, *, words: int) -> None:
    examples = list(conllu.read(source_config("conllu", "eng", str(gold), split="test")))
    parsing.check(examples, "s")
    draw = random.Random(1)
    known, predicted = parsing.labels(), []
    features = [row | {"number": number} for number, row in enumerate(parsing.features(examples, encoder))]
    assert len(features) == len(examples)
    for sentence in examples:
        heads = noisy([int(head) for head in sentence.columns["head"]], 0.3, draw)
        labels = [f"{draw.choice(known)}:x" if draw.random() < 0.2 else r for r in sentence.columns["deprel"]]
        predicted.append((heads, labels))
    parsing.said = [(heads, [known.index(label.split(":")[0]) for label in labels]) for heads, labels in predicted]
    write_predictions(gold, folder / "system.conllu", predicted)
    model = _Given(torch.zeros(1), nn.Linear(1, 1))
    found = evaluate(model, parsing, [LoadedSource("s", "eng", features)], encoder, 16, "fp32")
    assert found["words"] >= words and 0 < found["las"] < found["uas"] < 100
    assert_agreement(found, conll_2018(gold, folder / "system.conllu"))


SMALL = """\
# a multi-word token, an empty node, subtypes, underscores
1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tdo\tdo\tAUX\t_\t_\t3\taux:pass\t_\t_
2\tn't\tnot\tPART\t_\t_\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\t_\t_\t0\troot\t_\t_
3.1\tgo\tgo\tVERB\t_\t_\t_\t_\t_\t_
4\t_\t_\tSYM\t_\t_\t3\tobj\t_\t_
5\t.\t.\tPUNCT\t_\t_\t3\tpunct\t_\t_

1\tgo\tgo\tVERB\t_\t_\t0\troot\t_\t_

1\tred\tred\tADJ\t_\t_\t2\tamod\t_\t_
2\tcats\tcat\tNOUN\t_\t_\t3\tnsubj\t_\t_
3\tsleep\tsleep\tVERB\t_\t_\t0\troot\t_\t_
4\ta b\tab\tADV\t_\t_\t3\tadvmod\t_\t_

"""
UNIVERSAL = ["advmod", "amod", "aux", "nsubj", "obj", "punct", "root"]


def test_scores_agree_with_the_conll_2018_evaluation_on_small_sentences(tmp_path: Path, encoder: Encoder) -> None:
    gold = tmp_path / "gold.conllu"
    gold.write_text(SMALL * 5, encoding="utf-8")
    agree(gold, _Says(UNIVERSAL, "greedy", 64, 0.0), encoder, tmp_path, words=50)


def _as_conllu(sentences: Sequence[tuple[Sequence[str], Sequence[object], Sequence[str]]]) -> str:
    rows = []
    for words, heads, relations in sentences:
        for number, (word, head, relation) in enumerate(zip(words, heads, relations, strict=True), start=1):
            rows.append(f"{number}\t{word}\t_\t_\t_\t_\t{head}\t{relation}\t_\t_")
        rows.append("")
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize(("max_length", "longest"), [(48, 6), (16, 25)])
def test_a_models_trees_score_as_in_the_conll_2018_evaluation(
    max_length: int, longest: int, make_model: Callable[..., TransferModel], encoder: Encoder, tmp_path: Path
) -> None:
    parsing = task(max_length, decoding="tree")
    # Cut in windows, a sentence has a word under the root in each of them.
    examples = some_sentences(12, seed=6, longest=longest)
    model = make_model(parsing).eval()
    random_head(model.head)
    features = [parsing.features([one], encoder) for one in examples]
    assert (max(map(len, features)) > 1) == (max_length == 16)
    written = []
    for sentence, rows in zip(examples, features, strict=True):
        heads, relations = [], []
        for row in rows:
            found = parsing.predict(model, parsing.collate([row], encoder, torch.Generator()))
            start = len(heads)
            heads += [head and head + start for head in found[0][0].tolist()]
            relations += [RELATIONS[relation] for relation in found[1][0].tolist()]
        written.append((sentence.words or (), heads, relations))
    gold, system = tmp_path / "gold.conllu", tmp_path / "system.conllu"
    gold.write_text(_as_conllu([(e.words or (), e.columns["head"], e.columns["deprel"]) for e in examples]))
    system.write_text(_as_conllu(written))
    source = LoadedSource("s", "eng", [row for rows in features for row in rows])
    found_metrics = evaluate(model, parsing, [source], encoder, 5, "fp32")
    assert found_metrics["uas"] > 0
    assert_agreement(found_metrics, conll_2018(gold, system, many_roots=max_length == 16))


@pytest.mark.real
@pytest.mark.parametrize("treebank", ["UD_English-EWT", "UD_Faroese-FarPaHC", "UD_Maltese-MUDT", "UD_Greek-GDT"])
def test_scores_agree_with_the_conll_2018_evaluation_on_a_treebank(
    treebank: str, tmp_path: Path, encoder: Encoder
) -> None:
    folder = os.environ.get("XLT_DATA_DIR")
    if not folder:
        pytest.skip("XLT_DATA_DIR is not set: a folder with ud/UD_English-EWT, ...")
    with hydra_ready():
        relations = list(compose(["task=parsing"]).task.relations)
    assert len(relations) == 37
    gold = next(Path(folder).joinpath("ud", treebank).glob("*test.conllu"))
    agree(gold, _Says(relations, "greedy", 4096, 0.0), encoder, tmp_path, words=8000)


# Through the engine


def made_up_sentences(count: int, seed: int) -> list[Example]:
    """One verb (b..) under the root, nouns (m..) under it, adjectives (s..) under the next noun."""
    draw = random.Random(seed)
    result = []
    for number in range(count):
        phrases = [["s"] * draw.randint(0, 2) + ["m"] for _ in range(draw.randint(1, 3))]
        before = draw.randint(0, len(phrases))
        kinds = [k for p in phrases[:before] for k in p] + ["b"] + [k for p in phrases[before:] for k in p]
        verb = kinds.index("b") + 1
        heads, relations = [], []
        for at, kind in enumerate(kinds, start=1):
            heads.append({"b": 0, "m": verb, "s": kinds.index("m", at - 1) + 1 if kind == "s" else 0}[kind])
            relations.append({"b": "root", "s": "amod", "m": "nsubj" if at < verb else "obj"}[kind])
        words = [kind + draw.choice("aeiou") + draw.choice(["n", "s", "nat"]) for kind in kinds]
        result.append(example(words, heads, relations, f"made-up:{number}"))
    return result


@pytest.fixture
def parsing_trainer(
    make_trainer: Callable[..., Trainer],
    make_method: Callable[..., Any],
    make_model: Callable[..., TransferModel],
    encoder: Encoder,
) -> Callable[..., Trainer]:
    def make(parsing: Parsing, train: Sequence[Example], dev: Sequence[Example], method: str = "full", **recipe: Any):
        dtype = recipe.pop("dtype", torch.float32)
        trainer = make_trainer(make_method(method), **recipe)
        model = make_model(parsing, dtype=dtype)
        parsing.check([*train, *dev], "made-up")
        return dataclasses.replace(
            trainer,
            model=model,
            task=parsing,
            sources=[LoadedSource("train", "eng", parsing.features(train, encoder))],
            validation=[LoadedSource("dev", "eng", parsing.features(dev, encoder))],
            activation=LanguageActivation(model, {}, ["eng"]),
        )

    return make


@pytest.mark.parametrize("method", ["full", "lt_sft", "bitfit"])
def test_two_steps_through_the_engine_change_the_head_and_select_by_las(
    method: str, parsing_trainer: Callable[..., Trainer], records: Callable[..., Any], tmp_path: Path
) -> None:
    data = some_sentences(14), some_sentences(6, seed=1)
    trainer = parsing_trainer(task(), *data, method=method, max_steps=2, dense_max_steps=2)
    watcher = records()
    summary = trainer.train(tmp_path, watcher)
    assert "best/las" in summary
    assert all(parameter.ne(0).any() for parameter in trainer.model.head.parameters())  # type: ignore[union-attr]
    steps = [values for _, _, values in watcher.kept if "loss" in values]
    assert all(values["targets"] > 0 and math.isfinite(values["loss"]) for values in steps)
    (words,) = {values["validation/words"] for _, _, values in watcher.kept if "validation/words" in values}
    assert words == sum(len(one.words or ()) for one in data[1])


def test_micro_batches_do_not_change_what_is_learned(
    parsing_trainer: Callable[..., Trainer], records: Callable[..., Any], tmp_path: Path
) -> None:
    data = some_sentences(14, longest=9), some_sentences(3, seed=1)
    weights = []
    for size in (None, 1, 3):
        trainer = parsing_trainer(task(16), *data, max_steps=3, micro_batch_size=size, dtype=torch.float64)
        trainer.train(tmp_path / str(size), records())
        weights.append({name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()})
    for other in weights[1:]:
        for name, value in weights[0].items():
            # float64; Adam divides tiny gradients by themselves, which magnifies a rounding
            assert torch.allclose(other[name], value, atol=1e-6), name


@pytest.mark.parametrize("decoding", ["greedy", "tree"])
def test_the_parser_learns_a_made_up_grammar(
    decoding: str, parsing_trainer: Callable[..., Trainer], records: Callable[..., Any], tmp_path: Path
) -> None:
    parsing = task(decoding=decoding)
    trainer = parsing_trainer(
        parsing,
        made_up_sentences(300, seed=1),
        made_up_sentences(60, seed=2),
        max_steps=150,
        batch_size=16,
        learning_rate=4e-3,
        warmup_fraction=0.1,
        evaluate_every_steps=50,
    )
    assert trainer.train(tmp_path, records())["best/las"] > 95
