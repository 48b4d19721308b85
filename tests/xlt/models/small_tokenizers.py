"""Small tokenizers of all kinds, and how they cut words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tests.tokenizer_kinds import KINDS, LINES, SENTENCES
from xlt.models.vocabulary import SPECIAL_TOKENS

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


def wordpiece(tokens: Iterable[str]) -> Any:
    """Returns a WordPiece tokenizer with these tokens, after [PAD] and [UNK]."""
    vocabulary = {token: at for at, token in enumerate(["[PAD]", "[UNK]", *tokens])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def unigram(scores: dict[str, float]) -> Any:
    """Returns a Unigram tokenizer with these tokens and log-probabilities, after <pad> and <unk>."""
    tokenizer = Tokenizer(models.Unigram([("<pad>", 0.0), ("<unk>", 0.0), *scores.items()], unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def bpe(tokens: Iterable[str], merges: Sequence[tuple[str, str]], **options: Any) -> Any:
    """Returns a BPE tokenizer with these tokens, after <pad> and <unk>, and these merges."""
    vocabulary = {token: at for at, token in enumerate(["<pad>", "<unk>", *tokens])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", **options))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def ids_of(tokenizer: Any, *tokens: str) -> list[int]:
    """Returns the ids of tokens."""
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[token] for token in tokens]


def segment_words(tokenizer: Any, words: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each word's tokens, without special tokens."""
    return tokenizer(words, add_special_tokens=False)["input_ids"]


def segment(tokenizer: Any, word: str) -> list[str]:
    """Returns a word's tokens, without special tokens."""
    return tokenizer.convert_ids_to_tokens(segment_words(tokenizer, [word])[0])


def tokens_of(tokenizer: Any) -> list[str]:
    """Returns all tokens in the order of their ids."""
    return tokenizer.convert_ids_to_tokens(range(len(tokenizer)))


def assert_kept_words_are_cut_alike(full: Any, reduced: Any, kept: Tensor, words: Sequence[str]) -> int:
    """Asserts that the words whose tokens are all kept are cut into the same tokens as before; returns their number.

    A word that was one unknown token is not compared for WordPiece, which may now cut it into tokens.
    """
    old = kept.tolist()
    unsure = {full.unk_token_id} if isinstance(full.backend_tokenizer.model, models.WordPiece) else set()
    sure = set(old) - unsure
    same = 0
    for word, before, after in zip(words, segment_words(full, words), segment_words(reduced, words), strict=True):
        if sure.issuperset(before):
            assert [old[token] for token in after] == before, word
            same += 1
    return same
