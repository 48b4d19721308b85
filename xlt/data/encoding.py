"""Tokenizers of any kind (WordPiece, Unigram, byte-level BPE) behind two questions: pieces of words, of lines."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any


class Encoder:
    """A fast tokenizer and the special tokens it puts around a single sequence.

    Attributes:
        prefix, suffix: token ids before and after the pieces of a sequence.
        special: all special token ids.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        full = tokenizer("a")["input_ids"]
        at = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
        self.prefix: list[int] = full[:at]
        self.suffix: list[int] = full[at + len(bare) :]
        self.special = frozenset(tokenizer.all_special_ids)
        self.pad_id: int = tokenizer.pad_token_id

    def lines(self, texts: Sequence[str]) -> list[list[int]]:
        """Pieces of each text, without special tokens."""
        if not texts:
            return []
        return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]

    def words(self, sentences: Sequence[Sequence[str]], texts: Sequence[str | None]) -> list[list[list[int]]]:
        """Pieces of each word of each sentence, at least one a word.

        Args:
            sentences: the words.
            texts: running text of each sentence, or None. Where there is one, words are cut as they stand in it, with
                or without space before them, as the model met them in pre-training; else each word for itself.
        Returns:
            Sentences by words by piece ids; the unknown token for a word that the tokenizer gives no piece.
        """
        result: list[list[list[int]]] = [[] for _ in sentences]
        running = [i for i, text in enumerate(texts) if text is not None]
        if running:
            encoded = self.tokenizer(
                [texts[i] for i in running], add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            for i, ids, offsets in zip(running, encoded["input_ids"], encoded["offset_mapping"], strict=True):
                result[i] = _by_word(str(texts[i]), sentences[i], ids, offsets)
        apart = [i for i, words in enumerate(result) if not words or not all(words)]
        if apart:
            encoded = self.tokenizer(
                [list(sentences[i]) for i in apart], is_split_into_words=True, add_special_tokens=False, verbose=False
            )
            for number, i in enumerate(apart):
                pieces: list[list[int]] = [[] for _ in sentences[i]]
                for token, word in zip(encoded["input_ids"][number], encoded.word_ids(number), strict=True):
                    pieces[word].append(token)
                result[i] = [word or [self.tokenizer.unk_token_id] for word in pieces]
        return result

    def wrap(self, pieces: list[int]) -> list[int]:
        """A sequence as the model expects it."""
        return [*self.prefix, *pieces, *self.suffix]

    def room(self, max_length: int) -> int:
        """Pieces that fit beside the special tokens."""
        return max_length - len(self.prefix) - len(self.suffix)


def _by_word(text: str, words: Sequence[str], ids: list[int], offsets: list[tuple[int, int]]) -> list[list[int]]:
    """Gives each piece to the word in which its first visible character lies; [] if the words are not in the text."""
    starts, at = [], 0
    for word in words:
        start = text.find(word, at)
        if start < 0:
            return []
        starts.append(start)
        at = start + len(word)
    pieces: list[list[int]] = [[] for _ in words]
    for token, (start, end) in zip(ids, offsets, strict=True):
        while start < end - 1 and text[start].isspace():
            start += 1
        word_number = bisect.bisect_right(starts, start) - 1
        if word_number >= 0:
            pieces[word_number].append(token)
    return pieces
