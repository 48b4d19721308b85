"""Tokenizes words, lines and pairs with tokenizers of any kind (WordPiece, Unigram, byte-level BPE)."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class Pieces(NamedTuple):
    """The pieces (subword tokens) of a text.

    Attributes:
        ids: of the pieces, without special tokens.
        spans: (start, end) of each piece, in characters (code points) of the text. White space at either side of a
            piece is not part of its span; a piece of white space alone has an empty span where the next one begins.
            Pieces that share a character (as bytes of it, or after normalisation) can have the same span.
    """

    ids: list[int]
    spans: list[tuple[int, int]]


class Encoder:
    """A fast tokenizer with the special tokens that it puts around a sequence and around a pair of sequences.

    Attributes:
        prefix, suffix: special token ids before and after the pieces of a sequence.
        pair_prefix, pair_middle, pair_suffix: special token ids before, between and after the sequences of a pair.
        typed: whether `token_type_ids` distinguish the sequences of a pair.
        special: all special token ids.
        pad_id: id for padding; 0 if the tokenizer has none, which does no harm because padding is masked.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        full = tokenizer("a")["input_ids"]
        at = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
        self.prefix: list[int] = full[:at]
        self.suffix: list[int] = full[at + len(bare) :]
        pair = tokenizer("a", "a", return_token_type_ids=True)
        ids, owners, types = pair["input_ids"], pair.sequence_ids(0), pair["token_type_ids"]
        first, second = (range(owners.index(n), len(owners) - owners[::-1].index(n)) for n in (0, 1))
        self.pair_prefix: list[int] = ids[: first.start]
        self.pair_middle: list[int] = ids[first.stop : second.start]
        self.pair_suffix: list[int] = ids[second.stop :]
        self.typed = "token_type_ids" in tokenizer.model_input_names and any(types)
        self._middle_types: list[int] = types[first.stop : second.start]
        self._suffix_types: list[int] = types[second.stop :]
        self.special = frozenset(tokenizer.all_special_ids)
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    @cached_property
    def identity(self) -> str:
        """A digest of all that affects tokenization: vocabulary, merges, normalisation, special tokens and template."""
        backend = self.tokenizer.backend_tokenizer.to_str()
        content = f"{backend} {self.prefix} {self.suffix} {self.pad_id} {sorted(self.special)} {self.typed}"
        content += f" {getattr(self.tokenizer, 'chat_template', None)}"
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def lines(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text's pieces, without special tokens."""
        if not texts:
            return []
        return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]

    def sequences(self, texts: Sequence[str], max_length: int, packing: bool) -> list[list[int]]:
        """Converts running texts to sequences for the model; no piece is lost, and texts without pieces are left out.

        Args:
            texts: in order.
            max_length: maximum length of a sequence, including special tokens.
            packing: whether to join all texts, each with its special tokens, and to cut the result every `max_length`
                tokens. Otherwise every text is a sequence of its own, or several if it is longer.
        """
        lines = [pieces for pieces in self.lines(texts) if pieces]
        if packing:
            joined = [token for pieces in lines for token in self.wrap(pieces)]
            return [joined[at : at + max_length] for at in range(0, len(joined), max_length)]
        room = self.room(max_length)
        return [self.wrap(pieces[at : at + room]) for pieces in lines for at in range(0, len(pieces), room)]

    def located(self, texts: Sequence[str]) -> list[Pieces]:
        """Returns the pieces of each text with their places in the text."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [
            Pieces(ids, [_visible(text, start, end) for start, end in spans])
            for text, ids, spans in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]

    def words(self, sentences: Sequence[Sequence[str]], texts: Sequence[str | None]) -> list[list[list[int]]]:
        """Returns the pieces of each word of each sentence, at least one piece per word.

        Args:
            sentences: the words of each sentence.
            texts: the running text of each sentence, or None. If there is a text, words are tokenized within it, with
                or without space before them, as in pre-training; otherwise each word is tokenized by itself.
        Returns:
            for each sentence and word the ids of the pieces; the unknown token for a word without pieces.
        """
        result: list[list[list[int]]] = [[] for _ in sentences]
        running = [i for i, text in enumerate(texts) if text is not None]
        if running:
            for i, pieces in zip(running, self.located([str(texts[i]) for i in running]), strict=True):
                result[i] = _by_word(str(texts[i]), sentences[i], pieces)
        apart = [i for i, words in enumerate(result) if not words or not all(words)]
        if apart:
            encoded = self.tokenizer(
                [list(sentences[i]) for i in apart], is_split_into_words=True, add_special_tokens=False, verbose=False
            )
            for number, i in enumerate(apart):
                cut: list[list[int]] = [[] for _ in sentences[i]]
                for token, word in zip(encoded["input_ids"][number], encoded.word_ids(number), strict=True):
                    cut[word].append(token)
                result[i] = [word or [self.tokenizer.unk_token_id] for word in cut]
        return result

    def wrap(self, pieces: list[int]) -> list[int]:
        """Returns a sequence with its special tokens."""
        return [*self.prefix, *pieces, *self.suffix]

    def room(self, max_length: int) -> int:
        """Returns the number of pieces that fit into `max_length` beside the special tokens."""
        return max_length - len(self.prefix) - len(self.suffix)

    def pair_inputs(self, first: list[int], second: list[int]) -> dict[str, list[int]]:
        """Returns the model inputs of a pair: `input_ids`, and `token_type_ids` if the tokenizer is `typed`."""
        result = {"input_ids": [*self.pair_prefix, *first, *self.pair_middle, *second, *self.pair_suffix]}
        if self.typed:
            before = [0] * (len(self.pair_prefix) + len(first))
            result["token_type_ids"] = [*before, *self._middle_types, *[1] * len(second), *self._suffix_types]
        return result

    def second_at(self, first: list[int]) -> int:
        """Returns the position at which the second sequence of a pair begins, including special tokens."""
        return len(self.pair_prefix) + len(first) + len(self.pair_middle)

    def pair_room(self, max_length: int) -> int:
        """Returns the number of pieces of both sequences that fit into `max_length` beside a pair's special tokens."""
        return max_length - len(self.pair_prefix) - len(self.pair_middle) - len(self.pair_suffix)

    def pairs(self, first: Sequence[str], second: Sequence[str], max_length: int) -> list[tuple[list[int], list[int]]]:
        """Returns the pieces of both texts of each pair, without special tokens, but cut to leave room for them.

        The longer text loses its last pieces first; of equally long ones the second does.
        """
        room = self.pair_room(max_length)
        return [_longest_first(*pair, room) for pair in zip(self.lines(first), self.lines(second), strict=True)]

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pads rows on the right to the arguments of `TransferModel.encode`, (rows, longest) int64 each.

        Args:
            rows: each has `input_ids`; either all or none have `token_type_ids`.
        """
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        result = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        }
        if "token_type_ids" in rows[0]:
            types = [torch.tensor(row["token_type_ids"]) for row in rows]
            result["token_type_ids"] = pad_sequence(types, batch_first=True)
        return result


def _longest_first(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """Removes one piece after the other from the end of the longer list until both fit into `room`."""
    half = room // 2
    length = min(len(first), max(room - half, room - len(second)))
    return first[:length], second[: room - length]


def _visible(text: str, start: int, end: int) -> tuple[int, int]:
    """Removes the white space at the sides of a span; a span of white space alone becomes empty at its end."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _by_word(text: str, words: Sequence[str], pieces: Pieces) -> list[list[int]]:
    """Assigns each piece to the word that has its first visible character; returns [] if the text lacks a word."""
    starts, at = [], 0
    for word in words:
        start = text.find(word, at)
        if start < 0:
            return []
        starts.append(start)
        at = start + len(word)
    result: list[list[int]] = [[] for _ in words]
    for token, (start, _) in zip(pieces.ids, pieces.spans, strict=True):
        word_number = bisect.bisect_right(starts, start) - 1
        if word_number >= 0:
            result[word_number].append(token)
    return result
