"""Counts of tokens, frequent tokens, and counts of words that a reduced vocabulary cuts otherwise."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch

from tests.tokenizer_kinds import gpt2
from tests.xlt.models.small_tokenizers import (
    TEXTS,
    ids_of,
    segment_words,
    wordpiece,
)
from xlt.data.words import word_spans
from xlt.models import vocabulary_reduction
from xlt.models.vocabulary_reduction import (
    Segmentation,
    compare_segmentation,
    count_tokens,
    frequent_tokens,
    reduce_vocabulary,
)


def test_a_token_is_frequent_from_the_threshold_on() -> None:
    counts = torch.tensor([1, 999_999, 0])
    assert frequent_tokens([counts], 1e-6) == {0, 1}
    assert frequent_tokens([counts + torch.tensor([0, 1, 0])], 1e-6) == {1}
    assert frequent_tokens([torch.tensor([1000, 999_999_001])], 1e-6) == {1}  # in float32 it would reach it
    assert frequent_tokens([counts], 0.0) == {0, 1}


def test_a_token_is_frequent_where_any_language_has_it_often_enough() -> None:
    first, second = torch.tensor([9, 5_000_000, 4_999_991, 0]), torch.tensor([9, 0, 9_999_990, 1])
    assert frequent_tokens([first, second], 1e-6) == {1, 2}  # 0 would be, if probabilities were added
    assert frequent_tokens([first, torch.tensor([1, 0, 8, 1])], 1e-6) == {0, 1, 2, 3}
    assert frequent_tokens([], 1e-6) == frequent_tokens([torch.zeros(4, dtype=torch.int64)], 1e-6) == set()


def test_tokens_are_counted_over_all_batches(full: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_reduction, "_BATCH", 4)
    expected = Counter(itertools.chain(*segment_words(full, TEXTS)))
    counts = count_tokens(full, iter(TEXTS))
    assert (counts.shape, counts.dtype) == ((len(full),), torch.int64)
    assert {token: count for token, count in enumerate(counts.tolist()) if count} == expected
    assert count_tokens(full, []).sum() == count_tokens(full, [""]).sum() == 0


def test_words_that_are_cut_otherwise_are_counted_as_often_as_they_occur() -> None:
    full = wordpiece(["a", "ab", "abc", "##b", "##c", "##bc"])
    reduced, kept = reduce_vocabulary(full, ids_of(full, "ab", "##c"), characters=False)
    found = compare_segmentation(full, reduced, kept, ["abc ab  abc\n", "a\tx", "", "abcc a"], word_spans)
    # abc and abcc are cut otherwise; a is unknown now; x was before.
    assert found == Segmentation(words=7, changed=5, unknown=2)
    assert found.changed_share == 5 / 7
    assert compare_segmentation(full, reduced, kept, [], word_spans).changed_share == 0.0


def test_words_are_compared_as_they_are_cut_in_their_line() -> None:
    full = gpt2(["the cat sat on the mat"] * 9, 300)
    wanted = ids_of(full, "Ġcat", "the", "Ġthe")  # not `cat`, as the word is cut at the beginning of a line
    reduced, kept = reduce_vocabulary(full, wanted, characters=False)
    assert compare_segmentation(full, reduced, kept, ["the cat the cat"], word_spans) == Segmentation(4, 0, 0)
    assert compare_segmentation(full, reduced, kept, ["the mat"], word_spans) == Segmentation(2, 1, 0)


def test_letters_are_the_words_of_a_script_without_spaces() -> None:
    full = gpt2(["今天天气"] * 9, 300)
    reduced, kept = reduce_vocabulary(full, [], characters=False)
    assert compare_segmentation(full, reduced, kept, ["今天 ok"], word_spans) == Segmentation(3, 2, 0)
