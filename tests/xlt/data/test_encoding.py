"""Tokenizers of all families over scripts that break careless alignments."""

from __future__ import annotations

import itertools
import os
import unicodedata

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.tokenizer_kinds import FAMILIES, KINDS, LINES, SENTENCES, gpt2, unigram, wordpiece
from xlt.data.encoding import Encoder
from xlt.errors import UsageError
from xlt.models.loading import load_tokenizer
from xlt.models.vocabulary import train_tokenizer


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Encoder:
    return Encoder(KINDS[request.param]())


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Encoder:
    return Encoder(FAMILIES[request.param](LINES, 400))


@pytest.mark.parametrize("name", SENTENCES)
def test_every_word_has_pieces_whether_its_text_is_known_or_not(name: str, family: Encoder) -> None:
    words, text = SENTENCES[name]
    for given in (text, None):
        (pieces,) = family.words([words], [given])
        assert len(pieces) == len(words)
        assert all(pieces)


@pytest.mark.parametrize("name", SENTENCES)
def test_words_in_running_text_are_cut_as_the_text_is(name: str, family: Encoder) -> None:
    words, text = SENTENCES[name]
    (pieces,) = family.words([words], [text])
    (whole,) = family.located([text])
    kept = whole.ids
    glued = [(token, span) for token, span in zip(*whole, strict=True) if _words_within(words, text, span) > 1]
    for token, _ in glued:  # a piece of the text that stands for two words is cut if one would have none
        if token not in itertools.chain(*pieces):
            kept = [one for one in kept if one != token]
            pieces = [[one for one in word if one in kept] for word in pieces]
    assert list(itertools.chain(*pieces)) == kept


def _words_within(words: list[str], text: str, span: tuple[int, int]) -> int:
    """How many words of the text begin within the span."""
    at, begins = 0, []
    for word in words:
        begins.append(text.index(word, at))
        at = begins[-1] + len(word)
    return sum(span[0] <= begin < span[1] for begin in begins)


def test_pieces_before_the_first_word_belong_to_none(family: Encoder) -> None:
    (pieces,) = family.words([["cat", "sat"]], ["mat cat sat"])
    assert len(pieces) == 2
    (whole,) = family.lines(["mat cat sat"])
    kept = list(itertools.chain(*pieces))
    assert len(kept) < len(whole) and whole[-len(kept) :] == kept


def test_words_without_text_have_the_pieces_of_the_words_with_spaces_between(family: Encoder) -> None:
    for words in (["the", "cat", "sat"], ["the", "mat", ",", "5", "kg"], ["Hún", "sang", "ì", "kvøld", "ì"]):
        (pieces,) = family.words([words], [None])
        assert list(itertools.chain(*pieces)) == family.lines([" ".join(words)])[0]
        assert family.words([words], [" ".join(words)]) == [pieces]


def test_words_of_a_script_without_spaces_have_the_pieces_of_a_text_without_spaces(family: Encoder) -> None:
    words = ["今天", "天气", "很", "好"]
    assert family.words([words], [None]) == family.words([words], ["今天天气很好"])


def test_a_tokenizer_without_a_space_before_a_text_gives_every_word_but_the_first_one() -> None:
    encoder = Encoder(gpt2())
    (pieces,) = encoder.words([["the", "cat", "the"]], [None])
    entries = [encoder.tokenizer.convert_ids_to_tokens(word) for word in pieces]
    assert entries == [["the"], ["Ġcat"], ["Ġthe"]]


def test_the_tokenizer_of_a_new_vocabulary_puts_a_space_before_a_text() -> None:
    tokenizer = train_tokenizer(LINES, 400)  # transformers 4 must be told
    assert tokenizer.tokenize("the cat") == tokenizer.tokenize(" the cat") == ["Ġthe", "Ġcat"]


@pytest.mark.parametrize(
    ("family", "words", "text", "expected"),
    [
        # One piece for two words is cut where they meet, without a space between them ...
        ("byte BPE", ["the", "ca", "t"], "the cat", [["the"], ["Ġ", "c", "a"], ["t"]]),
        ("tiktoken", ["ca", "t", "sat"], "on cat sat", [["Ġ", "c", "a"], ["t"], ["Ġs", "at"]]),
        ("letter BPE", ["the", "mat", ",", "ok"], "the mat, ok", [["the"], ["▁mat"], [","], ["▁ok"]]),
        ("WordPiece", ["c", "at"], "cat", [["c"], ["##at"]]),
        # ... but only if one of them has no other piece: here the first of the next is in that of the one before.
        ("letter BPE", ["5", "kg"], "5kg", [["5k"], ["g"]]),
    ],
)
def test_a_piece_that_spans_words_belongs_to_the_first_unless_another_has_none(
    family: str, words: list[str], text: str, expected: list[list[str]]
) -> None:
    encoder = Encoder(FAMILIES[family](LINES, 400))
    (pieces,) = encoder.words([words], [text])
    assert [encoder.tokenizer.convert_ids_to_tokens(word) for word in pieces] == expected


def test_a_piece_of_three_words_is_cut_twice() -> None:
    tokenizer = gpt2(["wait... ok..."] * 50, 300)
    encoder = Encoder(tokenizer)
    assert tokenizer.tokenize("wait...")[-1] == "..."
    (pieces,) = encoder.words([["wait", ".", ".", "."]], ["wait..."])
    assert [tokenizer.convert_ids_to_tokens(word) for word in pieces[1:]] == [["."]] * 3


def test_a_piece_that_normalisation_made_of_two_words_is_cut_as_their_letters_are() -> None:
    tokenizer = gpt2(["say ab ok"] * 50, 300)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace("x", "ab")]
    )
    (pieces,) = Encoder(tokenizer).words([["say", "A", "B"]], ["say AB"])
    assert [tokenizer.convert_ids_to_tokens(word) for word in pieces[1:]] == [["Ġ", "a"], ["b"]]


def test_a_word_that_the_tokenizer_drops_needs_an_unknown_token() -> None:
    tokenizer = gpt2()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    encoder = Encoder(tokenizer)
    assert encoder.words([["\u200b"]], [None]) == [[[tokenizer.unk_token_id]]]
    tokenizer.unk_token = None
    with pytest.raises(UsageError, match=r"word '\\u200b': .*no unknown token"):
        encoder.words([["\u200b"]], [None])


def test_a_word_of_white_space_alone_takes_no_piece_of_others(family: Encoder) -> None:
    (with_space,) = family.words([["the", "\u3000", "cat"]], [None])
    (without,) = family.words([["the", "cat"]], [None])
    assert [with_space[0], with_space[2]] == without and with_space[1]


def test_a_word_that_stands_without_space_before_it_is_cut_without_one() -> None:
    encoder = Encoder(train_tokenizer(["the mat , 5 kg kg kg kg 5kg"] * 9, 300))
    (joined,) = encoder.words([["5", "kg"]], ["5kg"])
    (apart,) = encoder.words([["5", "kg"]], ["5 kg"])
    assert joined[0] == apart[0]
    assert encoder.tokenizer.decode(joined[1]).strip() == encoder.tokenizer.decode(apart[1]).strip() == "kg"
    assert joined[1] != apart[1]


def test_pieces_spell_their_own_word_whatever_the_script() -> None:
    encoder = Encoder(train_tokenizer(LINES, 400))  # loses nothing, so that pieces can be spelt out
    for name, (words, text) in SENTENCES.items():
        if name == "unspaced Thai":
            continue  # a piece may hold the last byte of one word and the first of the next
        (pieces,) = encoder.words([words], [text])
        spelt = [encoder.tokenizer.decode(piece).strip() for piece in pieces]
        assert spelt == [encoder.tokenizer.decode(encoder.lines([word])[0]).strip() for word in words]


def test_a_word_that_no_piece_stands_for_is_the_unknown_token() -> None:
    encoder = Encoder(wordpiece())
    for text in (None, "the \u200b cat"):
        (pieces,) = encoder.words([["the", "\u200b", "cat"]], [text])
        assert pieces[1] == [encoder.tokenizer.unk_token_id]
        assert pieces[0] != pieces[1] != pieces[2]


def test_words_that_are_not_in_the_text_are_cut_where_they_should_stand(family: Encoder) -> None:
    assert family.words([["the", "dog"]], ["the cat"]) == family.words([["the", "dog"]], ["the dog"])
    assert family.words([["di", "la", "casa"]], ["della casa"]) == family.words([["di", "la", "casa"]], ["di la casa"])


def test_sentences_with_and_without_text_keep_their_places(kind: Encoder) -> None:
    words = [["the", "cat"], ["sat", "on"], ["mat"]]
    together = kind.words(words, ["the cat", None, "mat"])
    assert together == [kind.words([w], [t])[0] for w, t in zip(words, ["the cat", None, "mat"], strict=True)]


def test_special_tokens_are_found_around_a_sequence(kind: Encoder) -> None:
    tokenizer = kind.tokenizer
    assert (kind.prefix, kind.suffix) == ([tokenizer.cls_token_id], [tokenizer.sep_token_id])
    (line,) = kind.lines(["the cat"])
    assert kind.wrap(line) == tokenizer("the cat")["input_ids"]
    assert kind.room(10) == 8
    assert kind.special == set(tokenizer.all_special_ids)
    assert tokenizer.pad_token_id == kind.pad_id


def test_no_lines_have_no_pieces(kind: Encoder) -> None:
    assert kind.lines([]) == []
    assert kind.words([], []) == []
    assert kind.lines(["", "cat"])[0] == []


def test_a_sequence_that_looks_like_a_special_token_is_no_reason_to_fail(kind: Encoder) -> None:
    word = kind.tokenizer.mask_token
    (pieces,) = kind.words([["the", word, "cat"]], [f"the {word} cat"])
    assert all(pieces)


@pytest.mark.parametrize("name", SENTENCES)
def test_pieces_are_located_in_the_text_without_the_white_space_around_them(name: str, kind: Encoder) -> None:
    _, text = SENTENCES[name]
    (pieces,) = kind.located([text])
    assert pieces.ids == kind.lines([text])[0]
    assert len(pieces.spans) == len(pieces.ids)
    assert all(0 <= start <= end <= len(text) for start, end in pieces.spans)
    assert all(text[start:end] == text[start:end].strip() for start, end in pieces.spans)
    assert pieces.spans == sorted(pieces.spans)


@pytest.mark.parametrize("name", SENTENCES)
def test_only_marks_and_joiners_that_a_normaliser_drops_lie_in_no_piece(name: str, kind: Encoder) -> None:
    _, text = SENTENCES[name]
    (pieces,) = kind.located([text])
    covered = {at for start, end in pieces.spans for at in range(start, end)}
    left = [c for at, c in enumerate(text) if at not in covered and not c.isspace()]
    assert all(unicodedata.category(c) in ("Mn", "Cf") for c in left)
    assert len(covered) > len(text) / 3


def test_pieces_of_one_character_share_its_place() -> None:
    encoder = Encoder(train_tokenizer(["a b"], 300))  # has seen neither character, so each is cut into its bytes
    (pieces,) = encoder.located(["aé👍b"])
    assert pieces.spans == [(0, 1), *[(1, 2)] * 2, *[(2, 3)] * 4, (3, 4)]


def test_white_space_at_the_end_of_a_piece_is_not_of_its_place() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "the ": 1, "cat\u00a0": 2}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s"), "merged_with_previous")
    (pieces,) = Encoder(PreTrainedTokenizerFast(tokenizer_object=tokenizer)).located(["the cat\u00a0a"])
    assert pieces == ([1, 2, 0], [(0, 3), (4, 7), (8, 9)])


def test_a_piece_of_white_space_alone_is_the_first_of_the_word_after_it() -> None:
    encoder = Encoder(unigram())
    words, text = ["the", "今天", "cat"], "the 今天\u00a0cat"
    (pieces,) = encoder.words([words], [text])
    assert len(pieces[1]) > 1 and encoder.tokenizer.convert_ids_to_tokens(pieces[1][0]) == "▁"
    (located,) = encoder.located([text])
    alone = [at for at, (start, end) in enumerate(located.spans) if start == end]
    assert alone and all(located.spans[at + 1][0] == located.spans[at][0] for at in alone)


@pytest.mark.parametrize("name", SENTENCES)
def test_a_pair_is_wrapped_as_the_tokenizer_wraps_it(name: str, kind: Encoder) -> None:
    first, second = SENTENCES[name][1], "the cat sat"
    for texts in ((first, second), (second, first), (first, " ")):
        expected = kind.tokenizer(*texts)
        pairs = kind.pairs(*([text] for text in texts), max_length=10**6)
        found = kind.pair_inputs(*pairs[0])
        assert found["input_ids"] == expected["input_ids"]
        assert kind.typed == ("token_type_ids" in found)
        if kind.typed:
            assert found["token_type_ids"] == expected["token_type_ids"]
        owners = expected.sequence_ids(0)
        assert kind.second_at(pairs[0][0]) == (owners.index(1) if 1 in owners else len(owners) - len(kind.pair_suffix))


def test_only_a_tokenizer_that_tells_sequences_apart_by_type_makes_types() -> None:
    assert {name: Encoder(make()).typed for name, make in KINDS.items()} == {
        "WordPiece": True,
        "Unigram": False,
        "byte-level BPE": False,
    }
    assert Encoder(KINDS["Unigram"]()).pair_middle == [Encoder(KINDS["Unigram"]()).suffix[0]] * 2


def test_the_longer_text_of_a_pair_loses_its_last_pieces_first(kind: Encoder) -> None:
    text = "the cat sat on the mat, the cat sat on it, ok"
    (whole,) = kind.lines([text])
    special = len(kind.pair_prefix) + len(kind.pair_middle) + len(kind.pair_suffix)
    for short, max_length in itertools.product(range(0, len(whole), 3), range(special, special + 2 * len(whole), 5)):
        sentence = kind.tokenizer.decode(whole[:short])
        (cut,) = kind.lines([sentence])
        for first, second in ((cut, whole), (whole, cut)):
            a, b = list(first), list(second)
            while len(a) + len(b) > max_length - special:
                (a if len(a) > len(b) else b).pop()
            texts = ([sentence], [text]) if first is cut else ([text], [sentence])
            assert kind.pairs(*texts, max_length) == [(a, b)]
            assert len(kind.pair_inputs(a, b)["input_ids"]) <= max_length


def test_a_batch_of_pairs_is_padded(kind: Encoder) -> None:
    rows = [kind.pair_inputs(*pair) for pair in kind.pairs(["the cat", "the"], ["sat on it", "mat"], 64)]
    batch = kind.batch(rows)
    long, short = (len(row["input_ids"]) for row in rows)
    assert set(batch) == {"input_ids", "attention_mask", *(["token_type_ids"] if kind.typed else [])}
    assert all(tensor.shape == (2, long) and tensor.dtype == torch.int64 for tensor in batch.values())
    assert batch["input_ids"][1].tolist() == rows[1]["input_ids"] + [kind.pad_id] * (long - short)
    assert batch["attention_mask"].sum(1).tolist() == [long, short]
    if kind.typed:
        assert batch["token_type_ids"][1].tolist() == rows[1]["token_type_ids"] + [0] * (long - short)


def test_a_tokenizer_without_special_tokens_puts_none_around_anything() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    encoder = Encoder(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    ((first, second),) = encoder.pairs(["the cat"], ["sat"], 99)
    assert encoder.pair_inputs(first, second) == {"input_ids": [*first, *second]}
    assert encoder.second_at(first) == len(first)
    assert (encoder.room(9), encoder.pair_room(9)) == (9, 9)
    assert encoder.batch([{"input_ids": first}, {"input_ids": [*first, *second]}])["attention_mask"].sum() > 0


@pytest.mark.parametrize("packing", [False, True])
def test_sequences_lose_no_piece_and_are_no_longer_than_asked_for(packing: bool, kind: Encoder) -> None:
    texts = [text for _, text in SENTENCES.values()] + ["  ", ""]
    sequences = kind.sequences(texts, 9, packing)
    assert all(1 <= len(ids) <= 9 for ids in sequences)
    kept = [token for ids in sequences for token in ids if token not in kind.special - {kind.tokenizer.unk_token_id}]
    assert kept == [token for line in kind.lines(texts) for token in line]
    if packing:
        assert {len(ids) for ids in sequences[:-1]} == {9}


@pytest.mark.real
def test_a_real_tokenizer_locates_and_pairs_all_scripts() -> None:
    path = os.environ.get("XLT_MODEL_PATH")
    if not path:
        pytest.skip("XLT_MODEL_PATH is not set: the folder of a pre-trained encoder")
    encoder = Encoder(load_tokenizer(path))
    for words, text in SENTENCES.values():
        (pieces,) = encoder.located([text])
        covered = {at for start, end in pieces.spans for at in range(start, end)}
        left = [c for at, c in enumerate(text) if at not in covered and not c.isspace()]
        assert all(unicodedata.category(c) in ("Mn", "Cf") for c in left)
        ((first, second),) = encoder.pairs([text], ["the cat"], 512)
        assert encoder.pair_inputs(first, second)["input_ids"] == encoder.tokenizer(text, "the cat")["input_ids"]
        assert all(encoder.words([words], [text])[0])
