"""Tokenizes words, lines and pairs with tokenizers of any kind (WordPiece, Unigram, byte-level BPE)."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from xlt.data.running_text import running_text
from xlt.errors import UsageError

# Stands for a space in the vocabularies of SentencePiece.
_SPACE_LETTER = "\u2581"


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

        The words of a sentence are tokenized together, within its running text (see `xlt.data.running_text`). So a
        word has the pieces that the model saw in pre-training, whatever the tokenizer does at spaces.

        A piece belongs to the word that has its first visible character, also if it reaches into the next word, such as
        ` couldn` of `could` and `n't`. Only if the next word would then have no piece, such as the second of `."`, the
        piece is cut at the border of the words, and each part is tokenized again without a space between them. These
        are the only words whose pieces are not those of the running text.

        Args:
            sentences: the words of each sentence.
            texts: the running text of each sentence, or None if it is unknown; the words are then joined as their
                scripts are written.
        Returns:
            for each sentence and word the ids of the pieces; the unknown token for a word without pieces.
        Raises:
            UsageError: a word has no pieces, and the tokenizer has no unknown token.
        """
        running = [running_text(words, text) for words, text in zip(sentences, texts, strict=True)]
        located = self.located([text for text, _ in running])
        return [
            [pieces or self._alone(word) for word, pieces in zip(words, self._by_word(*text, pieces), strict=True)]
            for words, text, pieces in zip(sentences, running, located, strict=True)
        ]

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

    def _by_word(self, text: str, starts: Sequence[int | None], pieces: Pieces) -> list[list[int]]:
        """Returns the pieces of each word of a running text; [] for a word that no piece stands for."""
        words = [number for number, start in enumerate(starts) if start is not None]
        begins = [start for start in starts if start is not None]
        first = [bisect.bisect_right(begins, start) - 1 for start, _ in pieces.spans]
        has_piece = set(first)
        result: list[list[int]] = [[] for _ in starts]
        for token, at, (start, end) in zip(pieces.ids, first, pieces.spans, strict=True):
            if at < 0:
                continue  # it stands before the first word
            cut = [at, *(one for one in range(at + 1, bisect.bisect_left(begins, end)) if one not in has_piece)]
            borders = [_end_before(text, begins[one]) for one in cut[1:]]
            ids = [[token]]
            if borders:
                has_piece.update(cut)
                ids = self._cut(token, [text[a:b] for a, b in itertools.pairwise([start, *borders, end])])
            for one, part in zip(cut, ids, strict=True):
                result[words[one]] += part
        return result

    def _cut(self, token: int, parts: list[str]) -> list[list[int]]:
        """Cuts a piece that stands for several parts of a text; returns the ids of the pieces of each part.

        The entry of the vocabulary is cut where the parts meet, and the tokenizer's model cuts each half again. If the
        entry does not end with the parts, because the tokenizer normalises them, each part is tokenized as a text.
        """
        model = self.tokenizer.backend_tokenizer.model
        entry, entries = self.tokenizer.convert_ids_to_tokens(token), list[str]()
        for part in reversed(parts[1:]):
            spelling = next((one for one in self._spellings(part) if one and entry[1:].endswith(one)), None)
            if spelling is None:
                break
            entry, entries = entry.removesuffix(spelling), [spelling, *entries]
        else:
            # WordPiece marks an entry that continues a word.
            mark = getattr(model, "continuing_subword_prefix", None) or ""
            continued = [entry, *(mark + one for one in entries)]
            ids = [
                [model.token_to_id(one)]
                if mark and model.token_to_id(one) is not None
                else [piece.id for piece in model.tokenize(one.removeprefix(mark))]
                for one in continued
            ]
            if all(ids):
                return ids
        return [self.lines([part])[0] for part in parts]

    def _spellings(self, part: str) -> list[str]:
        """Returns how entries of the vocabulary can spell a part of a text: its letters, or its bytes as letters."""
        from tokenizers.pre_tokenizers import ByteLevel

        normaliser = self.tokenizer.backend_tokenizer.normalizer
        normal = part if normaliser is None else normaliser.normalize_str(part)
        letters = normal.replace(" ", _SPACE_LETTER)
        if not part[:1].isspace():
            letters = letters.removeprefix(_SPACE_LETTER)
        as_bytes = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(normal)
        return [letters, "".join(piece for piece, _ in as_bytes)]

    def _alone(self, word: str) -> list[int]:
        """Returns the pieces of a word that has none in its running text: of white space, or of marks that are dropped.

        Raises:
            UsageError: it has none by itself either, and the tokenizer has no unknown token.
        """
        unknown = self.tokenizer.unk_token_id
        pieces = self.lines([word])[0] or [unknown]
        if pieces == [None]:
            raise UsageError(f"word {word!a}: the tokenizer leaves it out, and has no unknown token; change the word")
        return pieces

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


def _end_before(text: str, start: int) -> int:
    """Returns where the white space before the character `start` begins."""
    while start > 0 and text[start - 1].isspace():
        start -= 1
    return start
