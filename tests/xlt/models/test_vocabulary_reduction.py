"""Reduced vocabularies: what is kept, how words are cut then, and that the files load elsewhere."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tests.tokenizer_kinds import KINDS, LINES, SENTENCES, gpt2
from xlt.data.words import word_spans
from xlt.errors import UsageError
from xlt.models import vocabulary_reduction
from xlt.models.loading import load_tokenizer
from xlt.models.vocabulary import SPECIAL_TOKENS
from xlt.models.vocabulary_reduction import (
    Segmentation,
    compare_segmentation,
    count_tokens,
    frequent_tokens,
    piece_map,
    reduce_vocabulary,
    save_tokenizer,
)

TEXTS = [text for _, text in SENTENCES.values()]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _sentencepiece_bpe() -> Any:
    """As Llama 2's: characters that are no tokens are written in bytes, which are tokens like others."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = list(SPECIAL_TOKENS.values())
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[*special, *BYTES], show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    written = json.loads(tokenizer.to_str())
    written["added_tokens"] = written["added_tokens"][: len(special)]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(written)), **SPECIAL_TOKENS)


def _affixed_bpe() -> Any:
    """Tokens that are not a word's first begin with ##, those that are its last end with </w>."""
    affixes = {"continuing_subword_prefix": "##", "end_of_word_suffix": "</w>"}
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **affixes))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = list(SPECIAL_TOKENS.values())
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False, **affixes)
    tokenizer.train_from_iterator(LINES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


ALL_KINDS: dict[str, Callable[[], Any]] = {
    **KINDS,
    "SentencePiece BPE": _sentencepiece_bpe,
    "BPE with affixes": _affixed_bpe,
}


@pytest.fixture(scope="module", params=ALL_KINDS)
def full(request: pytest.FixtureRequest) -> Any:
    return ALL_KINDS[request.param]()


def _wordpiece(tokens: Iterable[str]) -> Any:
    vocabulary = {token: at for at, token in enumerate(["[PAD]", "[UNK]", *tokens])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def _unigram(scores: dict[str, float]) -> Any:
    tokenizer = Tokenizer(models.Unigram([("<pad>", 0.0), ("<unk>", 0.0), *scores.items()], unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def _bpe(tokens: Iterable[str], merges: Sequence[tuple[str, str]], **options: Any) -> Any:
    vocabulary = {token: at for at, token in enumerate(["<pad>", "<unk>", *tokens])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", **options))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def _ids(tokenizer: Any, *tokens: str) -> list[int]:
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[token] for token in tokens]


def _cuts(tokenizer: Any, words: Sequence[str]) -> list[list[int]]:
    return tokenizer(words, add_special_tokens=False)["input_ids"]


def _cut(tokenizer: Any, word: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(_cuts(tokenizer, [word])[0])


def _vocabulary(tokenizer: Any) -> list[str]:
    return tokenizer.convert_ids_to_tokens(range(len(tokenizer)))


def _assert_kept_words_are_cut_alike(full: Any, reduced: Any, kept: Tensor, words: Sequence[str]) -> int:
    """Of words all of whose tokens are kept; their number. WordPiece may now cut what was the unknown token."""
    old = kept.tolist()
    unsure = {full.unk_token_id} if isinstance(full.backend_tokenizer.model, models.WordPiece) else set()
    sure = set(old) - unsure
    same = 0
    for word, before, after in zip(words, _cuts(full, words), _cuts(reduced, words), strict=True):
        if sure.issuperset(before):
            assert [old[token] for token in after] == before, word
            same += 1
    return same


# Worked by hand.


def test_wordpiece_takes_the_longest_token_that_is_left() -> None:
    full = _wordpiece(["a", "ab", "abc", "##b", "##c", "##bc"])
    reduced, kept = reduce_vocabulary(full, _ids(full, "ab", "##c"), characters=False)
    assert kept.tolist() == [0, 1, 3, 6]
    assert _vocabulary(reduced) == ["[PAD]", "[UNK]", "ab", "##c"]
    assert [_cut(reduced, word) for word in ("ab", "abc", "a")] == [["ab"], ["ab", "##c"], ["[UNK]"]]
    with_characters, _ = reduce_vocabulary(full, _ids(full, "ab"), characters=True)
    assert _vocabulary(with_characters) == ["[PAD]", "[UNK]", "a", "ab", "##b", "##c"]
    assert _cut(with_characters, "a") == ["a"]


def test_wordpiece_may_cut_a_word_that_the_longest_token_led_astray() -> None:
    full = _wordpiece(["a", "ab", "##bc"])
    assert _cut(full, "abc") == ["[UNK]"]
    reduced, _ = reduce_vocabulary(full, _ids(full, "a", "##bc"), characters=False)
    assert _cut(reduced, "abc") == ["a", "##bc"]


def test_unigram_takes_the_best_segmentation_that_is_left() -> None:
    full = _unigram({"a": -2.0, "b": -2.0, "ab": -3.0, "c": -4.0})
    assert _cut(full, "aab") == ["a", "ab"]
    reduced, kept = reduce_vocabulary(full, _ids(full, "a", "b"), characters=False)
    assert kept.tolist() == [0, 1, 2, 3, 5]  # c has the lowest score
    assert _vocabulary(reduced) == ["<pad>", "<unk>", "a", "b", "c"]
    assert _cut(reduced, "aab") == ["a", "a", "b"]


def test_an_unknown_character_costs_unigram_what_it_did() -> None:
    scores = {"ab": -8.0, "cd": -8.0, "ef": -8.0, "bcdef": -1.0, "z": -20.0}
    full = _unigram(scores)  # an unknown character costs 10 more than z: 30 + 1 > 3 * 8
    wanted = _ids(full, "ab", "cd", "ef", "bcdef")
    reduced, _ = reduce_vocabulary(full, wanted, characters=False)
    assert _cut(full, "abcdef") == _cut(reduced, "abcdef") == ["ab", "cd", "ef"]
    del scores["z"]  # 10 more than ef: 18 + 1 < 3 * 8
    assert _cut(_unigram(scores), "abcdef") == ["<unk>", "bcdef"]


def test_bpe_keeps_what_a_kept_token_is_merged_from() -> None:
    merges = [("a", "b"), ("c", "d"), ("b", "c"), ("bc", "d"), ("ab", "cd"), ("a", "bcd")]
    full = _bpe(["a", "b", "c", "d", "ab", "cd", "bc", "bcd", "abcd"], merges)
    reduced, kept = reduce_vocabulary(full, _ids(full, "abcd"), characters=False)
    assert _vocabulary(reduced) == ["<pad>", "<unk>", "a", "b", "c", "d", "ab", "cd", "abcd"]
    assert kept.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 10]
    model = json.loads(reduced.backend_tokenizer.to_str())["model"]
    assert [tuple(merge) for merge in model["merges"]] == [("a", "b"), ("c", "d"), ("ab", "cd")]
    assert _cut(full, "abcd") == _cut(reduced, "abcd") == ["abcd"]
    assert (_cut(full, "bc"), _cut(reduced, "bc")) == (["bc"], ["b", "c"])
    assert _cut(full, "bcd") == _cut(reduced, "bcd") == ["b", "cd"]


def test_bpe_keeps_a_token_that_no_merge_makes_by_itself() -> None:
    full = _bpe(["a", "b", "ab", "abab"], [("a", "b")], ignore_merges=True)
    reduced, kept = reduce_vocabulary(full, _ids(full, "abab"), characters=False)
    assert kept.tolist() == [0, 1, 5]
    assert _cut(reduced, "abab") == _cut(full, "abab") == ["abab"]  # as the whole word


def test_bpe_with_byte_fallback_keeps_all_bytes() -> None:
    full = _bpe([*BYTES, "a", "b", "ab"], [("a", "b")], byte_fallback=True)
    reduced, kept = reduce_vocabulary(full, _ids(full, "a"), characters=False)
    assert kept.tolist() == list(range(2 + 256 + 1))
    assert _cut(reduced, "abé") == ["a", "<0x62>", "<0xC3>", "<0xA9>"]


def test_byte_level_bpe_keeps_all_bytes() -> None:
    full = KINDS["byte-level BPE"]()
    reduced, _ = reduce_vocabulary(full, [], characters=False)
    assert set(_vocabulary(reduced)) == {*pre_tokenizers.ByteLevel.alphabet(), *SPECIAL_TOKENS.values()}
    assert reduced.decode(_cuts(reduced, ["ᏣᎳᎩ ok"])[0]).strip() == "ᏣᎳᎩ ok"


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
        same = _assert_kept_words_are_cut_alike(full, reduced, kept, words)
        assert 0 < same < len(words)


def _random_wordpiece(draw: random.Random) -> Any:
    strings = draw.sample(_STRINGS, 25)
    return _wordpiece(draw.choice(("", "##")) + string for string in strings)


def _random_unigram(draw: random.Random) -> Any:
    return _unigram({string: -float(draw.randint(1, 12)) for string in draw.sample(_STRINGS, 25)})  # with ties


def _random_bpe(draw: random.Random) -> Any:
    tokens = ["a", "b", "c"]
    merges: list[tuple[str, str]] = []
    while len(merges) < 30:
        left, right = draw.choices(tokens, k=2)
        if (left, right) not in merges and len(left + right) < 6:
            merges.append((left, right))
            tokens += [left + right] * (left + right not in tokens)
    draw.shuffle(merges)  # so that some tokens are never made, others in another way than they were here
    return _bpe(tokens, merges)


_STRINGS = ["".join(letters) for length in (1, 2, 3, 4) for letters in itertools.product("abc", repeat=length)]


@pytest.mark.parametrize("make", [_random_wordpiece, _random_unigram, _random_bpe])
def test_all_short_words_are_cut_as_before_by_random_vocabularies(make: Callable[[random.Random], Any]) -> None:
    words = ["".join(letters) for length in range(1, 7) for letters in itertools.product("abc", repeat=length)]
    same = 0
    for seed in range(12):
        draw = random.Random(seed)
        full = make(draw)
        reduced, kept = reduce_vocabulary(full, draw.sample(range(len(full)), len(full) // 2), characters=False)
        same += _assert_kept_words_are_cut_alike(full, reduced, kept, words)
    assert 100 < same < 12 * len(words)


def test_a_character_that_is_a_token_never_becomes_unknown(full: Any) -> None:
    reduced, _ = reduce_vocabulary(full, [], characters=True)
    whole = {word for line in LINES for word in line.split()}
    parts = {word[at : at + length] for word in whole for length in (1, 2) for at in range(len(word))}
    words = sorted(whole | parts)
    known = [word for word, ids in zip(words, _cuts(full, words), strict=True) if full.unk_token_id not in ids]
    assert len(known) > 60
    unknown = [word for word, ids in zip(known, _cuts(reduced, known), strict=True) if reduced.unk_token_id in ids]
    assert unknown == []


# Special tokens and settings.


def test_texts_and_pairs_are_wrapped_as_before(full: Any) -> None:
    wanted = {token for text in TEXTS for token in full(text)["input_ids"]}
    reduced, kept = reduce_vocabulary(full, wanted, characters=False)
    assert len(kept) == len(reduced) < len(full)
    assert reduced.pad_token_id == full.pad_token_id
    for texts in [*zip(TEXTS), *itertools.pairwise(TEXTS)]:
        before, after = full(*texts), reduced(*texts)
        assert before.keys() == after.keys()
        assert kept[after["input_ids"]].tolist() == before["input_ids"]
        assert all(after[name] == before[name] for name in before if name != "input_ids")


def test_roles_and_settings_are_the_full_tokenizers() -> None:
    full = KINDS["WordPiece"]()
    full.add_special_tokens({"additional_special_tokens": ["<left>", "<right>"], "bos_token": "[CLS]"})
    full.padding_side = full.truncation_side = "left"
    full.model_max_length = 77
    full.chat_template = "{{ messages }}"
    full.clean_up_tokenization_spaces = True
    full.eos_token = _vocabulary(full)[-20]  # a role given to a token like others
    reduced, kept = reduce_vocabulary(full, [], characters=False)
    assert reduced.special_tokens_map == full.special_tokens_map
    assert sorted(reduced.all_special_tokens) == sorted(full.all_special_tokens)
    assert {"<left>", "<right>"} < set(reduced.all_special_tokens)
    assert kept[reduced.all_special_ids].tolist() == _ids(full, *reduced.all_special_tokens)
    names = "model_input_names padding_side truncation_side model_max_length chat_template clean_up_tokenization_spaces"
    for name in names.split():
        assert getattr(reduced, name) == getattr(full, name), name
    assert _cut(reduced, "<left>") == ["<left>"]


def test_all_ids_up_to_the_padding_tokens_are_kept() -> None:
    full = KINDS["Unigram"]()
    full.pad_token = _vocabulary(full)[20]
    reduced, kept = reduce_vocabulary(full, [], characters=False)
    assert reduced.pad_token_id == full.pad_token_id == 20
    assert kept[:21].tolist() == list(range(21))


def test_an_unknown_token_without_a_role_is_kept() -> None:
    wordpiece = models.WordPiece({"a": 0, "b": 1, "<unk>": 2}, unk_token="<unk>")
    unigram = models.Unigram([("z", -9.0), ("a", -1.0), ("<unk>", 0.0)], unk_id=2)
    for model in (wordpiece, unigram):
        full = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
        reduced, kept = reduce_vocabulary(full, [0], characters=False)
        assert kept.tolist() == [0, 2]
        assert _cut(reduced, "b") == ["<unk>"]


def test_what_padding_and_truncation_were_at_the_last_call_is_forgotten() -> None:
    full = KINDS["Unigram"]()
    full(["the cat", "the"], padding="max_length", truncation=True, max_length=5)
    reduced, _ = reduce_vocabulary(full, range(50), characters=True)
    assert reduced.backend_tokenizer.padding is None
    assert reduced.backend_tokenizer.truncation is None


def _template(tokenizer: Any) -> Any:
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    return processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=ids)


@pytest.mark.parametrize(
    "processor",
    [
        lambda t: processors.BertProcessing(("</s>", t.sep_token_id), ("<s>", t.cls_token_id)),
        lambda t: processors.RobertaProcessing(("</s>", t.sep_token_id), ("<s>", t.cls_token_id)),
        lambda t: processors.Sequence([processors.ByteLevel(trim_offsets=False), _template(t)]),
    ],
    ids=["BERT", "RoBERTa", "sequence"],
)
def test_post_processors_of_all_sorts_get_the_new_ids(processor: Callable[[Any], Any]) -> None:
    tokens = ["<pad>", "<unk>", "c", "<s>", "d", "</s>", "e"]
    tokenizer = Tokenizer(models.Unigram([(token, 0.0) for token in tokens], unk_id=1))
    full = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)
    full.backend_tokenizer.post_processor = processor(full)
    reduced, kept = reduce_vocabulary(full, _ids(full, "e"), characters=False)
    assert _vocabulary(reduced) == ["<pad>", "<unk>", "<s>", "</s>", "e", "<mask>"]
    for texts in (["e"], ["e", "<mask>e"]):
        before, after = (tokenizer(*texts, return_token_type_ids=True) for tokenizer in (full, reduced))
        assert kept[after["input_ids"]].tolist() == before["input_ids"]
        assert after["token_type_ids"] == before["token_type_ids"]
    assert reduced.convert_ids_to_tokens(reduced("e")["input_ids"]) == ["<s>", "e", "</s>"]


# Counting.


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
    expected = Counter(itertools.chain(*_cuts(full, TEXTS)))
    counts = count_tokens(full, iter(TEXTS))
    assert (counts.shape, counts.dtype) == ((len(full),), torch.int64)
    assert {token: count for token, count in enumerate(counts.tolist()) if count} == expected
    assert count_tokens(full, []).sum() == count_tokens(full, [""]).sum() == 0


def test_words_that_are_cut_otherwise_are_counted_as_often_as_they_occur() -> None:
    full = _wordpiece(["a", "ab", "abc", "##b", "##c", "##bc"])
    reduced, kept = reduce_vocabulary(full, _ids(full, "ab", "##c"), characters=False)
    found = compare_segmentation(full, reduced, kept, ["abc ab  abc\n", "a\tx", "", "abcc a"], word_spans)
    # abc and abcc are cut otherwise; a is unknown now; x was before.
    assert found == Segmentation(words=7, changed=5, unknown=2)
    assert found.changed_share == 5 / 7
    assert compare_segmentation(full, reduced, kept, [], word_spans).changed_share == 0.0


def test_words_are_compared_as_they_are_cut_in_their_line() -> None:
    full = gpt2(["the cat sat on the mat"] * 9, 300)
    wanted = _ids(full, "Ġcat", "the", "Ġthe")  # not `cat`, as the word is cut at the beginning of a line
    reduced, kept = reduce_vocabulary(full, wanted, characters=False)
    assert compare_segmentation(full, reduced, kept, ["the cat the cat"], word_spans) == Segmentation(4, 0, 0)
    assert compare_segmentation(full, reduced, kept, ["the mat"], word_spans) == Segmentation(2, 1, 0)


def test_letters_are_the_words_of_a_script_without_spaces() -> None:
    full = gpt2(["今天天气"] * 9, 300)
    reduced, kept = reduce_vocabulary(full, [], characters=False)
    assert compare_segmentation(full, reduced, kept, ["今天 ok"], word_spans) == Segmentation(3, 2, 0)


# Elsewhere.


def test_a_token_is_found_in_the_full_vocabulary_by_how_it_is_written(full: Any) -> None:
    reduced, kept = reduce_vocabulary(full, range(0, len(full), 3), characters=True)
    assert torch.equal(piece_map(reduced, full), kept)
    assert kept.dtype == torch.int64
    assert kept.tolist() == sorted(kept.tolist())
    assert _vocabulary(reduced) == full.convert_ids_to_tokens(kept.tolist())


def test_a_token_that_the_full_vocabulary_lacks_is_named() -> None:
    full, other = _wordpiece(["a", "b"]), _wordpiece(["b", "cd", "ef"])
    with pytest.raises(UsageError, match=r"'cd'"):
        piece_map(other, full)


_LOADING = """
import json, sys
from transformers import AutoTokenizer
texts = json.load(sys.stdin)
found = {}
for folder in sys.argv[1:]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found[folder] = [tokenizer(*text)["input_ids"] for text in texts], sorted(tokenizer.all_special_tokens)
print(json.dumps(found))
"""


def test_another_process_loads_the_same_tokenizer(tmp_path: Path) -> None:
    """A config.json tempts the loader to build the tokenizer of the model family instead of the one saved."""
    texts = [*zip(TEXTS), *itertools.pairwise(TEXTS), ("the <left> cat",)]
    expected = {}
    for number, make in enumerate(ALL_KINDS.values()):
        full = make()
        full.add_special_tokens({"additional_special_tokens": ["<left>"]})
        reduced, _ = reduce_vocabulary(full, range(0, len(full), 2), characters=True)
        for family in ("", "xlm-roberta", "bert"):
            folder = tmp_path / f"{number}{family}"
            save_tokenizer(reduced, folder)
            if family:
                (folder / "config.json").write_text(json.dumps({"model_type": family}), encoding="utf-8")
            found = [reduced(*text)["input_ids"] for text in texts]
            expected[str(folder)] = [found, sorted(reduced.all_special_tokens)]
    loading = subprocess.run(
        [sys.executable, "-c", _LOADING, *expected],
        input=json.dumps(texts), capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert json.loads(loading.stdout) == expected


def test_the_settings_saved_are_those_that_transformers_4_reads(tmp_path: Path) -> None:
    """4.57 knows no `TokenizersBackend`, wants a mapping as `extra_special_tokens`, and sets `add_prefix_space`."""
    full = KINDS["byte-level BPE"]()
    full.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # 4 set it to False
    full.add_special_tokens({"additional_special_tokens": ["<left>"]})
    for tokenizer in (full, reduce_vocabulary(full, [], characters=True)[0]):
        save_tokenizer(tokenizer, tmp_path)
        settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert settings["additional_special_tokens"] == ["<left>"]
        assert not isinstance(settings.get("extra_special_tokens"), list)
        assert settings["add_prefix_space"] is True


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
        reduce_vocabulary(_wordpiece(["a", "b"]), [2, 4, 5], characters=False)


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
        assert _assert_kept_words_are_cut_alike(full, reduced, kept, words) > 0.8 * len(words)
        found = [compare_segmentation(full, reduced, kept, lines, word_spans) for lines in held_out]
        assert all(one.changed_share < 0.05 for one in found)
        assert not characters or [one.unknown for one in found] == [0, 0]
    assert sizes[0] > sizes[1] > sizes[2] >= len(wanted)
