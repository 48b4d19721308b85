"""Reduced vocabularies: which tokens are kept, and how words are cut with them."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tokenizer_kinds import KINDS, LINES
from tests.xlt.models.small_tokenizers import (
    BYTES,
    assert_kept_words_are_cut_alike,
    bpe,
    ids_of,
    segment,
    segment_words,
    tokens_of,
    unigram,
    wordpiece,
)
from xlt.data.words import word_spans
from xlt.errors import UsageError
from xlt.models.loading import load_tokenizer
from xlt.models.vocabulary import SPECIAL_TOKENS
from xlt.models.vocabulary_reduction import (
    compare_segmentation,
    count_tokens,
    frequent_tokens,
    piece_map,
    reduce_vocabulary,
)


def test_wordpiece_takes_the_longest_token_that_is_left() -> None:
    full = wordpiece(["a", "ab", "abc", "##b", "##c", "##bc"])
    reduced, kept = reduce_vocabulary(full, ids_of(full, "ab", "##c"), characters=False)
    assert kept.tolist() == [0, 1, 3, 6]
    assert tokens_of(reduced) == ["[PAD]", "[UNK]", "ab", "##c"]
    assert [segment(reduced, word) for word in ("ab", "abc", "a")] == [["ab"], ["ab", "##c"], ["[UNK]"]]
    with_characters, _ = reduce_vocabulary(full, ids_of(full, "ab"), characters=True)
    assert tokens_of(with_characters) == ["[PAD]", "[UNK]", "a", "ab", "##b", "##c"]
    assert segment(with_characters, "a") == ["a"]


def test_wordpiece_may_cut_a_word_that_the_longest_token_led_astray() -> None:
    full = wordpiece(["a", "ab", "##bc"])
    assert segment(full, "abc") == ["[UNK]"]
    reduced, _ = reduce_vocabulary(full, ids_of(full, "a", "##bc"), characters=False)
    assert segment(reduced, "abc") == ["a", "##bc"]


def test_unigram_takes_the_best_segmentation_that_is_left() -> None:
    full = unigram({"a": -2.0, "b": -2.0, "ab": -3.0, "c": -4.0})
    assert segment(full, "aab") == ["a", "ab"]
    reduced, kept = reduce_vocabulary(full, ids_of(full, "a", "b"), characters=False)
    assert kept.tolist() == [0, 1, 2, 3, 5]  # c has the lowest score
    assert tokens_of(reduced) == ["<pad>", "<unk>", "a", "b", "c"]
    assert segment(reduced, "aab") == ["a", "a", "b"]


def test_an_unknown_character_costs_unigram_what_it_did() -> None:
    scores = {"ab": -8.0, "cd": -8.0, "ef": -8.0, "bcdef": -1.0, "z": -20.0}
    full = unigram(scores)  # an unknown character costs 10 more than z: 30 + 1 > 3 * 8
    wanted = ids_of(full, "ab", "cd", "ef", "bcdef")
    reduced, _ = reduce_vocabulary(full, wanted, characters=False)
    assert segment(full, "abcdef") == segment(reduced, "abcdef") == ["ab", "cd", "ef"]
    del scores["z"]  # 10 more than ef: 18 + 1 < 3 * 8
    assert segment(unigram(scores), "abcdef") == ["<unk>", "bcdef"]


def test_bpe_keeps_what_a_kept_token_is_merged_from() -> None:
    merges = [("a", "b"), ("c", "d"), ("b", "c"), ("bc", "d"), ("ab", "cd"), ("a", "bcd")]
    full = bpe(["a", "b", "c", "d", "ab", "cd", "bc", "bcd", "abcd"], merges)
    reduced, kept = reduce_vocabulary(full, ids_of(full, "abcd"), characters=False)
    assert tokens_of(reduced) == ["<pad>", "<unk>", "a", "b", "c", "d", "ab", "cd", "abcd"]
    assert kept.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 10]
    model = json.loads(reduced.backend_tokenizer.to_str())["model"]
    assert [tuple(merge) for merge in model["merges"]] == [("a", "b"), ("c", "d"), ("ab", "cd")]
    assert segment(full, "abcd") == segment(reduced, "abcd") == ["abcd"]
    assert (segment(full, "bc"), segment(reduced, "bc")) == (["bc"], ["b", "c"])
    assert segment(full, "bcd") == segment(reduced, "bcd") == ["b", "cd"]


def test_bpe_keeps_a_token_that_no_merge_makes_by_itself() -> None:
    full = bpe(["a", "b", "ab", "abab"], [("a", "b")], ignore_merges=True)
    reduced, kept = reduce_vocabulary(full, ids_of(full, "abab"), characters=False)
    assert kept.tolist() == [0, 1, 5]
    assert segment(reduced, "abab") == segment(full, "abab") == ["abab"]  # as the whole word


def test_bpe_with_byte_fallback_keeps_all_bytes() -> None:
    full = bpe([*BYTES, "a", "b", "ab"], [("a", "b")], byte_fallback=True)
    reduced, kept = reduce_vocabulary(full, ids_of(full, "a"), characters=False)
    assert kept.tolist() == list(range(2 + 256 + 1))
    assert segment(reduced, "abé") == ["a", "<0x62>", "<0xC3>", "<0xA9>"]


def test_byte_level_bpe_keeps_all_bytes() -> None:
    full = KINDS["byte-level BPE"]()
    reduced, _ = reduce_vocabulary(full, [], characters=False)
    assert set(tokens_of(reduced)) == {*pre_tokenizers.ByteLevel.alphabet(), *SPECIAL_TOKENS.values()}
    assert reduced.decode(segment_words(reduced, ["ᏣᎳᎩ ok"])[0]).strip() == "ᏣᎳᎩ ok"


# How words are cut.


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_words_of_kept_tokens_are_cut_as_before(share: float, full: Any) -> None:
    draw = random.Random(f"{share}")
    parts = [word[at:end] for line in LINES for word in line.split() for at in (0, 1, 2) for end in (2, 3, 5, 99)]
    words = ["".join(draw.choices(parts, k=draw.randint(1, 3))) for _ in range(2000)]
    for _ in range(3):
        wanted = draw.sample(range(len(full)), int(share * len(full)))
        reduced, kept = reduce_vocabulary(full, wanted, characters=False)
        assert set(wanted) <= set(kept.tolist())
        same = assert_kept_words_are_cut_alike(full, reduced, kept, words)
        assert 0 < same < len(words)


def _random_wordpiece(draw: random.Random) -> Any:
    strings = draw.sample(_STRINGS, 25)
    return wordpiece(draw.choice(("", "##")) + string for string in strings)


def _random_unigram(draw: random.Random) -> Any:
    return unigram({string: -float(draw.randint(1, 12)) for string in draw.sample(_STRINGS, 25)})  # with ties


def _random_bpe(draw: random.Random) -> Any:
    tokens = ["a", "b", "c"]
    merges: list[tuple[str, str]] = []
    while len(merges) < 30:
        left, right = draw.choices(tokens, k=2)
        if (left, right) not in merges and len(left + right) < 6:
            merges.append((left, right))
            tokens += [left + right] * (left + right not in tokens)
    draw.shuffle(merges)  # so that some tokens are never made, others in another way than they were here
    return bpe(tokens, merges)


_STRINGS = ["".join(letters) for length in (1, 2, 3, 4) for letters in itertools.product("abc", repeat=length)]


@pytest.mark.parametrize("make", [_random_wordpiece, _random_unigram, _random_bpe])
def test_all_short_words_are_cut_as_before_by_random_vocabularies(make: Callable[[random.Random], Any]) -> None:
    words = ["".join(letters) for length in range(1, 7) for letters in itertools.product("abc", repeat=length)]
    same = 0
    for seed in range(12):
        draw = random.Random(seed)
        full = make(draw)
        reduced, kept = reduce_vocabulary(full, draw.sample(range(len(full)), len(full) // 2), characters=False)
        same += assert_kept_words_are_cut_alike(full, reduced, kept, words)
    assert 100 < same < 12 * len(words)


def test_a_character_that_is_a_token_never_becomes_unknown(full: Any) -> None:
    reduced, _ = reduce_vocabulary(full, [], characters=True)
    whole = {word for line in LINES for word in line.split()}
    parts = {word[at : at + length] for word in whole for length in (1, 2) for at in range(len(word))}
    words = sorted(whole | parts)
    known = [word for word, ids in zip(words, segment_words(full, words), strict=True) if full.unk_token_id not in ids]
    assert len(known) > 60
    unknown = [
        word for word, ids in zip(known, segment_words(reduced, known), strict=True) if reduced.unk_token_id in ids
    ]
    assert unknown == []


# What is refused.


def test_other_types_of_tokenizers_are_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1}, unk_token="<unk>"))
    full = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    with pytest.raises(UsageError, match=r"type WordLevel .*WordPiece, Unigram, BPE") as caught:
        reduce_vocabulary(full, [1], characters=True)
    assert len(caught.value.lines) == 1


def test_ids_with_gaps_are_refused() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "b": 7}, unk_token="[UNK]"))
    full = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    assert reduce_vocabulary(full, [7], characters=False)[1].tolist() == [0, 7]
    full.add_special_tokens({"additional_special_tokens": ["<left>"]})
    with pytest.raises(UsageError, match=r"gaps.* before <l"):
        reduce_vocabulary(full, [7], characters=False)
    full.pad_token = "b"
    with pytest.raises(UsageError, match="gaps"):
        reduce_vocabulary(full, [], characters=False)


def test_an_id_that_the_tokenizer_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\bid 4\b"):
        reduce_vocabulary(wordpiece(["a", "b"]), [2, 4, 5], characters=False)


# A real one.


@pytest.mark.real
@pytest.mark.parametrize("target", ["fo", "myv"])
def test_a_real_vocabulary_is_reduced_to_two_languages(target: str) -> None:
    path, data = os.environ.get("XLT_MODEL_PATH"), os.environ.get("XLT_DATA_DIR")
    if not path:
        pytest.skip("XLT_MODEL_PATH is not set: the folder of a pre-trained encoder")
    if not data:
        pytest.skip("XLT_DATA_DIR is not set: a folder with mono/en.txt, ...")
    full = load_tokenizer(path)
    files = [Path(data) / "mono" / f"{name}.txt" for name in ("en", target)]
    texts = [file.read_text(encoding="utf-8").splitlines() for file in files]
    held_out = [lines[::10] for lines in texts]
    counts = [count_tokens(full, (line for at, line in enumerate(lines) if at % 10)) for lines in texts]
    wanted = frequent_tokens(counts, 1e-6)
    sizes = [len(full)]
    for characters in (True, False):
        reduced, kept = reduce_vocabulary(full, wanted, characters=characters)
        assert torch.equal(piece_map(reduced, full), kept)
        sizes.append(len(reduced))
        words = sorted({word for lines in held_out for line in lines for word in line.split()})
        assert assert_kept_words_are_cut_alike(full, reduced, kept, words) > 0.8 * len(words)
        found = [compare_segmentation(full, reduced, kept, lines, word_spans) for lines in held_out]
        assert all(one.changed_share < 0.05 for one in found)
        assert not characters or [one.unknown for one in found] == [0, 0]
    assert sizes[0] > sizes[1] > sizes[2] >= len(wanted)
