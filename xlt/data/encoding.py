"""Tokenizers of any kind (WordPiece, Unigram, byte-level BPE): pieces of words, lines and pairs, and their places."""

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
    """A text cut into pieces.

    Attributes:
        ids: the pieces, without special tokens.
        spans: (start, end) of each piece, in characters (code points) of the text. White space at either side of a
            piece is not counted, so a piece of white space alone is empty, and stands where the next begins. Pieces
            that share a character (bytes of it, or a word that normalisation made longer) may have the same span.
    """

    ids: list[int]
    spans: list[tuple[int, int]]


class Encoder:
    """A fast tokenizer and the special tokens it puts around a sequence and a pair of them.

    Attributes:
        prefix, suffix: token ids before and after the pieces of a sequence.
        pair_prefix, pair_middle, pair_suffix: token ids before, between and after those of a pair.
        typed: whether the tokenizer tells the sequences of a pair apart by `token_type_ids`.
        special: all special token ids.
        pad_id: fills up a batch; any id does where the tokenizer has none, because padding is masked.
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
        """A name for all that decides how text is cut: vocabulary, merges, normalisation, special tokens, template."""
        backend = self.tokenizer.backend_tokenizer.to_str()
        told = f"{backend} {self.prefix} {self.suffix} {self.pad_id} {sorted(self.special)} {self.typed}"
        told += f" {getattr(self.tokenizer, 'chat_template', None)}"
        return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()

    def lines(self, texts: Sequence[str]) -> list[list[int]]:
        """Pieces of each text, without special tokens."""
        if not texts:
            return []
        return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]

    def sequences(self, texts: Sequence[str], max_length: int, packing: bool) -> list[list[int]]:
        """Running text as the model expects it; no piece is lost, and a text without pieces is left out.

        Args:
            texts: in order.
            max_length: longest sequence, special tokens included.
            packing: all texts are joined, each with its special tokens, and cut every `max_length`; else every text is
                a sequence of its own, or several where it is longer.
        """
        lines = [pieces for pieces in self.lines(texts) if pieces]
        if packing:
            joined = [token for pieces in lines for token in self.wrap(pieces)]
            return [joined[at : at + max_length] for at in range(0, len(joined), max_length)]
        room = self.room(max_length)
        return [self.wrap(pieces[at : at + room]) for pieces in lines for at in range(0, len(pieces), room)]

    def located(self, texts: Sequence[str]) -> list[Pieces]:
        """Pieces of each text and where in it they stand."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [
            Pieces(ids, [_visible(text, start, end) for start, end in spans])
            for text, ids, spans in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]

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
        """A sequence as the model expects it."""
        return [*self.prefix, *pieces, *self.suffix]

    def room(self, max_length: int) -> int:
        """Pieces that fit beside the special tokens."""
        return max_length - len(self.prefix) - len(self.suffix)

    def pair_inputs(self, first: list[int], second: list[int]) -> dict[str, list[int]]:
        """A pair of sequences as the model expects it: `input_ids`, and `token_type_ids` where it is `typed`."""
        result = {"input_ids": [*self.pair_prefix, *first, *self.pair_middle, *second, *self.pair_suffix]}
        if self.typed:
            before = [0] * (len(self.pair_prefix) + len(first))
            result["token_type_ids"] = [*before, *self._middle_types, *[1] * len(second), *self._suffix_types]
        return result

    def second_at(self, first: list[int]) -> int:
        """Position in the wrapped pair at which the second sequence begins."""
        return len(self.pair_prefix) + len(first) + len(self.pair_middle)

    def pair_room(self, max_length: int) -> int:
        """Pieces of both sequences together that fit beside the special tokens of a pair."""
        return max_length - len(self.pair_prefix) - len(self.pair_middle) - len(self.pair_suffix)

    def pairs(self, first: Sequence[str], second: Sequence[str], max_length: int) -> list[tuple[list[int], list[int]]]:
        """Pieces of both texts of each pair, without special tokens, cut to fit into `max_length` with them.

        The longer of the two loses its last pieces first (the second, where both are as long).
        """
        room = self.pair_room(max_length)
        return [_longest_first(*pair, room) for pair in zip(self.lines(first), self.lines(second), strict=True)]

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """What `TransferModel.encode` takes, filled up on the right: (rows, longest) int64 each.

        Args:
            rows: each with `input_ids` and, in all or none, `token_type_ids`.
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
    """What is left when one piece after the other is taken off the longer list until both fit into `room`."""
    half = room // 2
    kept = min(len(first), max(room - half, room - len(second)))
    return first[:kept], second[: room - kept]


def _visible(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without the white space at its sides; the end of one that is nothing else."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _by_word(text: str, words: Sequence[str], pieces: Pieces) -> list[list[int]]:
    """Gives each piece to the word in which its first visible character lies; [] if the words are not in the text."""
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
