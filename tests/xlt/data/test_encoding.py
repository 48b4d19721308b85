"""Tokenizers of the three kinds, trained here, over scripts that break careless alignments."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from xlt.data.encoding import Encoder
from xlt.models.vocabulary import SPECIAL_TOKENS, train_tokenizer

LINES = [
    "the cat sat on the mat, 5kg of it",
    "Hún sang ì kvøld um føroyar",
    "ọ̀rọ̀ tí a kọ sílẹ̀ ní Yorùbá",
    "מה שלומך היום בבית",
    "ئۇيغۇر تىلى بىر تۈركىي تىل",
    "今天天气很好我们去公园",
    "วันนี้อากาศดีมาก",
    "नमस्ते दुनिया क्षत्रिय",
    "👩‍👩‍👧 🇫🇴 ok 👍🏽",
] * 4
# Words, and the running text they stand in: with spaces, without, with marks and direction changes.
SENTENCES: dict[str, tuple[list[str], str]] = {
    "spaces": (["the", "cat", "sat"], "the cat sat"),
    "no space before punctuation": (["the", "mat", ",", "ok"], "the mat, ok"),
    "number and unit": (["5", "kg", "of", "it"], "5kg of it"),
    "several spaces": (["the", "cat"], "the \u00a0 cat "),
    "combining marks": (["ọ̀rọ̀", "tí", "Yorùbá"], "ọ̀rọ̀ tí Yorùbá"),
    "decomposed": (["Yoru\u0300ba\u0301", "ni\u0301"], "Yoru\u0300ba\u0301 ni\u0301"),
    "right to left": (["שלומך", "היום", "5", "בבית"], "שלומך היום 5 בבית"),
    "joined script": (["ئۇيغۇر", "تىلى"], "ئۇيغۇر تىلى"),
    "unspaced Chinese": (["今天", "天气", "很", "好"], "今天天气很好"),
    "unspaced Thai": (["วันนี้", "อากาศ", "ดี"], "วันนี้อากาศดี"),
    "conjuncts": (["नमस्ते", "क्षत्रिय"], "नमस्ते क्षत्रिय"),
    "emoji": (["👩‍👩‍👧", "ok", "👍🏽", "🇫🇴"], "👩‍👩‍👧 ok👍🏽 🇫🇴"),
    "repeated words": (["the", "the", "the", "cat"], "the the the cat"),
    "word within a word": (["a", "cat", "at"], "a cat at"),
    "unseen script": (["ᏣᎳᎩ", "ok"], "ᏣᎳᎩ ok"),
}


def _wordpiece() -> Any:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(LINES, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _unigram() -> Any:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = list(SPECIAL_TOKENS.values())
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


KINDS = {"WordPiece": _wordpiece, "Unigram": _unigram, "byte-level BPE": lambda: train_tokenizer(LINES, 400)}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Encoder:
    return Encoder(KINDS[request.param]())


@pytest.mark.parametrize("name", SENTENCES)
def test_every_word_has_pieces_whether_it_stands_in_text_or_alone(name: str, kind: Encoder) -> None:
    words, text = SENTENCES[name]
    for given in (text, None):
        (pieces,) = kind.words([words], [given])
        assert len(pieces) == len(words)
        assert all(pieces)


@pytest.mark.parametrize("name", SENTENCES)
def test_words_in_running_text_are_cut_as_the_text_is(name: str, kind: Encoder) -> None:
    words, text = SENTENCES[name]
    (pieces,) = kind.words([words], [text])
    (whole,) = kind.lines([text])
    if list(itertools.chain(*pieces)) != whole:
        # A piece of the text covers two words, so one would have none: then all are cut for themselves.
        assert len(whole) < len(text)
        assert pieces == kind.words([words], [None])[0]
        assert name in ("number and unit", "emoji", "unseen script")


def test_pieces_before_the_first_word_belong_to_none(kind: Encoder) -> None:
    (pieces,) = kind.words([["cat", "sat"]], ["mat, cat sat"])
    assert len(pieces) == 2
    (whole,) = kind.lines(["mat, cat sat"])
    kept = list(itertools.chain(*pieces))
    assert len(kept) < len(whole) and whole[-len(kept) :] == kept


def test_words_without_text_are_each_cut_for_themselves(kind: Encoder) -> None:
    (pieces,) = kind.words([["the", "cat", "sat"]], [None])
    assert pieces == [kind.lines([word])[0] for word in ("the", "cat", "sat")]


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
    encoder = Encoder(_wordpiece())
    for text in (None, "the \u200b cat"):
        (pieces,) = encoder.words([["the", "\u200b", "cat"]], [text])
        assert pieces[1] == [encoder.tokenizer.unk_token_id]
        assert pieces[0] != pieces[1] != pieces[2]


def test_words_that_are_not_in_the_text_are_cut_for_themselves(kind: Encoder) -> None:
    assert kind.words([["the", "dog"]], ["the cat"]) == kind.words([["the", "dog"]], [None])
    assert kind.words([["cat", "the"]], ["the cat"]) == kind.words([["cat", "the"]], [None])  # another order


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
