"""What a parser reads: words, pieces and windows; and which trees it refuses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.parsed_sentences import RELATIONS, batch_of, example, parsing_task, random_head, some_sentences
from tests.tolerance import summation_tolerance
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.errors import UsageError
from xlt.models.transfer import TransferModel
from xlt.models.vocabulary import SPECIAL_TOKENS
from xlt.tasks.parsing import ParsingHead


def test_pieces_belong_to_their_words_and_the_first_position_to_the_root(encoder: Encoder) -> None:
    words = ["bun", "zzzzqqqq", "lan"]
    (row,) = parsing_task().features([example(words, [2, 0, 2], ["nsubj", "root", "obj:x"])], encoder)
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
    windows = parsing_task(16).features([long], encoder)
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
    parsing = parsing_task(16)
    rows = parsing.features([star], encoder)
    batch = parsing.collate(rows, encoder, torch.Generator())
    first = len(rows[0]["heads"])
    assert len(rows) > 2
    assert parsing.targets(batch) == first
    model = make_model(parsing, dtype=torch.float64).eval()
    random_head(model.head)
    alone = parsing.collate(rows[:1], encoder, torch.Generator())
    # In float64; batches of other sizes may be added in another order.
    assert parsing.loss(model, batch).item() == pytest.approx(parsing.loss(model, alone).item(), rel=1e-9)
    scores = [parsing.score(model, parsing.collate([row], encoder, torch.Generator()), []) for row in rows]
    assert all(score[:2] == (0, 0) for score in scores[1:])
    assert sum(score[2] for score in scores) == 20
    nothing = parsing.loss(model, parsing.collate(rows[1:], encoder, torch.Generator()))
    nothing.backward()
    assert nothing.item() == 0.0


def test_a_word_longer_than_a_window_keeps_its_beginning(encoder: Encoder) -> None:
    sentence = example(["a", "qz" * 40, "b"], [2, 0, 2], ["nsubj", "root", "obj"])
    windows = parsing_task(16).features([sentence], encoder)
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
    encoder, parsing = _trained(kind), parsing_task()
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
            given = hidden[row, at : at + len(word)]
            tolerance = summation_tolerance(len(word), torch.float32) * float(given.abs().max())
            torch.testing.assert_close(vectors[row, number], given.mean(0), rtol=0, atol=tolerance)
            at += len(word)
        assert vectors[row, len(pieces) + 1 :].eq(0).all()


def test_a_tokenizer_without_a_token_for_the_root_is_refused(encoder: Encoder) -> None:
    bare = Encoder(encoder.tokenizer)
    bare.prefix = []
    with pytest.raises(UsageError, match=r"task=parsing: .*root"):
        parsing_task().features(some_sentences(1), bare)


def test_a_batch_is_padded_and_counts_its_words(encoder: Encoder) -> None:
    examples = [example(["bun"], [0], ["root"]), example(["bun", "lan", "mi"], [2, 0, 2], ["nsubj", "root", "obj"])]
    rows = parsing_task().features(examples, encoder)
    batch = parsing_task().collate(rows, encoder, torch.Generator())
    short, longer = (len(row["input_ids"]) for row in rows)
    assert batch["input_ids"].shape == batch["word"].shape == batch["attention_mask"].shape == (2, longer)
    assert batch["input_ids"][0, short:].eq(encoder.pad_id).all() and batch["word"][0, short:].eq(-1).all()
    assert batch["attention_mask"].sum(1).tolist() == [short, longer]
    assert batch["heads"].tolist() == [[0, -100, -100], [2, 0, 2]]
    assert batch["relations"].tolist() == [[0, -100, -100], [1, 0, 2]]
    assert parsing_task().targets(batch) == 4


# What is refused


@pytest.mark.parametrize(
    ("heads", "relations", "message"),
    [
        ("0 _", "root obj", "word 2: head '_' is not a number from 0 to 2"),
        ("0 -1", "root obj", "word 2: head '-1' is not a number from 0 to 2"),
        ("0 1.1", "root obj", "word 2: head '1.1' is not a number from 0 to 2"),
        ("0 ²", "root obj", "word 2: head '²' is not a number from 0 to 2"),
        ("3 0", "obj root", "word 1: head '3' is not a number from 0 to 2"),
        ("0 2", "root obj", "own head"),
        ("0 0", "root root", "2 words with head 0"),
        ("2 1", "obj obj", "0 words with head 0"),
        ("0 3 2", "root obj obj", "cycle"),
        ("0 1", "root _", "word 2: relation '_' is not in task.relations (root nsubj obj amod)"),
        ("0 1", "root dobj:x", "word 2: relation 'dobj:x' is not in task.relations (root nsubj obj amod)"),
    ],
)
def test_trees_that_are_none_and_unknown_relations_are_refused(heads: str, relations: str, message: str) -> None:
    words = ["a"] * len(heads.split())
    with pytest.raises(UsageError) as caught:
        parsing_task().check([example(words, heads.split(), relations.split())], "s")
    assert str(caught.value).startswith("file:1: ") and message in str(caught.value)


def test_sources_without_trees_are_refused() -> None:
    with pytest.raises(UsageError, match=r"file:1: .*no column head, .* parsing .*data\.sources\.x"):
        parsing_task().check([Example("file:1", "text")], "data.sources.x")
    with pytest.raises(UsageError, match=r"file:1: .*no column deprel"):
        parsing_task().check([Example("file:1", words=("a",), columns={"head": ("0",)})], "s")


def test_subtypes_are_read_as_their_relation_and_underscores_as_words(encoder: Encoder) -> None:
    sentence = example(["_", "a"], [0, 1], ["root", "nsubj:pass"])
    parsing_task().check([sentence], "s")
    (row,) = parsing_task().features([sentence], encoder)
    assert row["relations"] == [0, 1]


def test_the_heads_inventory_is_what_modules_keep() -> None:
    assert parsing_task().labels() == RELATIONS
    head = parsing_task().head(8)
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {"arcs": (9, 8), "relations": (4, 9, 9)}
