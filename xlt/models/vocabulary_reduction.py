"""Reduces a multilingual tokenizer to the tokens that two languages use (thesis §5.3.2).

This follows Abdaoui et al. (2020). The result is a complete tokenizer; `piece_map` returns the rows of the full model's
embeddings that belong to its tokens.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlt.errors import UsageError

_KINDS = ("WordPiece", "Unigram", "BPE")
_BATCH = 10_000  # texts that are tokenized at a time


@dataclass(frozen=True)
class Segmentation:
    """Counts of words that a reduced tokenizer segments differently from the full one, by occurrences in a text.

    Attributes:
        words: all words.
        changed: words with another segmentation.
        unknown: words in which the reduced tokenizer has an unknown token and the full one has none.
    """

    words: int
    changed: int
    unknown: int

    @property
    def changed_share(self) -> float:
        """Share of the words with another segmentation, in [0, 1]; 0 if there are no words."""
        return self.changed / self.words if self.words else 0.0


def count_tokens(tokenizer: Any, lines: Iterable[str]) -> Tensor:
    """Counts how often each token id occurs in the lines, without special tokens; returns (len(tokenizer),) int64."""
    counts = torch.zeros(len(tokenizer), dtype=torch.int64)
    for ids in _tokenize_batches(tokenizer, lines):
        counts += torch.bincount(torch.tensor(list(itertools.chain(*ids)), dtype=torch.int64), minlength=len(counts))
    return counts


def frequent_tokens(counts: Iterable[Tensor], threshold: float) -> set[int]:
    """Returns the token ids whose unigram probability is at least `threshold` in the corpus of at least one language.

    Thesis §5.3.2: the threshold is 1e-6, the languages are source and target. A token without occurrences is never
    frequent.

    Args:
        counts: for each language (tokenizer entries,) int64, how often each token id occurs in its corpus.
        threshold: inclusive; the comparison is in float64, where a quotient of counts equals its decimal.
    """
    token_ids: set[int] = set()
    for count in counts:
        frequent = (count > 0) & (count.double() / count.sum() >= threshold)
        token_ids.update(frequent.nonzero().flatten().tolist())
    return token_ids


def reduce_vocabulary(tokenizer: Any, wanted: Collection[int], *, characters: bool) -> tuple[Any, Tensor]:
    """Reduces a tokenizer to the wanted tokens and those that are indispensable.

    Indispensable are all special and added tokens, the unknown token, the tokens by which byte-level models and byte
    fallback spell other text, and all ids up to that of the padding token. The padding id must not change, because
    model families such as XLM-R count positions from it. (So a tokenizer whose last token is the padding token is
    hardly reduced.)

    A word (a unit of the pre-tokenizer) is segmented as before if all its tokens are kept:

    - WordPiece takes the longest token that fits, from left to right. In the full tokenizer that is a kept token, so it
      is also the longest kept token. The only exception is a word that is unknown to the full tokenizer because no
      token fits after the longest one: the reduced tokenizer may segment it.
    - Unigram takes the segmentation with the highest score. The score of the full tokenizer's choice does not change,
      and no other segmentation gets a higher one. A character that was a token may become unknown, but an unknown
      character costs more than any token, and as much as before, because the token with the lowest score, which
      determines this cost, is kept.
    - BPE applies, of all possible merges, the first in rank. No merge that it applied to the word crosses a border
      between two tokens of the result, so the merges within a token are those that it applies to this token alone, the
      token's derivation. The reduced tokenizer has the derivations of all kept tokens, with their tokens, and no other
      merges. At each step, therefore, the merge that was first is still there and is the first of fewer merges. (With
      `ignore_merges`, a word that is a token is one piece in both tokenizers.)

    Args:
        tokenizer: a fast tokenizer of type WordPiece, Unigram or BPE; it does not change.
        wanted: token ids to keep.
        characters: whether to keep all tokens of one character, too (in WordPiece also those after its prefix), so
            that a character that is a token by itself never becomes unknown.
    Returns:
        The reduced tokenizer, a `PreTrainedTokenizerFast` with the full one's special tokens and settings; and
        (entries,) int64, ascending, the ids that its tokens have in `tokenizer`.
    Raises:
        UsageError: the tokenizer has another type, or its ids have gaps.
        ValueError: the tokenizer has no token with one of the wanted ids.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["truncation"] = content["padding"] = None  # these belong to the tokenizer's last call
    model = content["model"]
    if model["type"] not in _KINDS:
        raise UsageError(
            f"model.student: a tokenizer of type {model['type']} cannot be reduced; supported: {', '.join(_KINDS)}"
        )
    vocabulary = _vocabulary(model)
    places = list(_places_of_ids(content))
    added = {place["content"]: place["id"] for place in content["added_tokens"]}
    if unknown := sorted(set(wanted).difference(vocabulary.values(), added.values())):
        raise ValueError(f"the tokenizer has no token with the wanted id {unknown[0]}")

    keep = {*wanted, *tokenizer.all_special_ids, *(holder[key] for holder, key in places)}
    keep.update(_indispensable(content, vocabulary))
    if tokenizer.pad_token_id is not None:
        keep.update(range(tokenizer.pad_token_id + 1))
    if characters:
        keep.update(_characters(model, vocabulary))
    if model["type"] == "BPE":
        model["merges"] = _keep_derivations(model, vocabulary, keep)

    kept = sorted(keep)
    new = {old: place for place, old in enumerate(kept)}
    if model["type"] == "Unigram":
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in new]
    else:
        model["vocab"] = {token: new[old] for token, old in vocabulary.items() if old in new}
    for holder, key in places:
        holder[key] = new[holder[key]]
    backend = Tokenizer.from_str(json.dumps(content))
    # An added token that the model does not have gets the next id, even if its entry has another.
    moved = [token for token, old in added.items() if backend.token_to_id(token) != new[old]]
    if moved or backend.get_vocab_size(with_added_tokens=True) != len(kept):
        where = f", for example before {moved[0]}" if moved else ""
        raise UsageError(f"model.student: the tokenizer cannot be reduced, because its ids have gaps{where}")
    reduced = PreTrainedTokenizerFast(tokenizer_object=backend, **_settings(tokenizer), **_prefix_space(content))
    return reduced, torch.tensor(kept, dtype=torch.int64)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Writes the tokenizer's files so that transformers 4 and 5 can read them.

    Version 5 writes the class name `TokenizersBackend` instead of `PreTrainedTokenizerFast`, which version 4 does not
    know, and lists additional special tokens under a key for which version 4 expects a mapping. Version 5 reads both.
    """
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings.update(_prefix_space(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))))
    if settings["tokenizer_class"] == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def piece_map(reduced: Any, full: Any) -> Tensor:
    """Returns the id that each token of `reduced` has in `full`, (len(reduced),) int64, found by the token's text.

    Raises:
        UsageError: `full` does not have one of the tokens.
    """
    ids = full.get_vocab()
    tokens = reduced.convert_ids_to_tokens(range(len(reduced)))
    for token in tokens:
        if token not in ids:
            raise UsageError(
                f"model.student: the full tokenizer has no token {token!r}, so the student's tokenizer is no reduction "
                "of it; use the student with its own teacher"
            )
    return torch.tensor([ids[token] for token in tokens], dtype=torch.int64)


def compare_segmentation(
    full: Any, reduced: Any, kept: Tensor, lines: Iterable[str], words: Callable[[str], Sequence[tuple[int, int]]]
) -> Segmentation:
    """Compares how two tokenizers segment the words of the lines, within the lines.

    Args:
        full, reduced: the tokenizers.
        kept: (len(reduced),) int64: the ids that the tokens of `reduced` have in `full`.
        lines: text.
        words: returns (start, end) of each word of a line, in order.
    """
    old = kept.tolist()
    count = changed = unknown = 0
    rest = iter(lines)
    while batch := list(itertools.islice(rest, _BATCH)):
        spans = [words(line) for line in batch]
        for before, after in zip(_cut_words(full, batch, spans), _cut_words(reduced, batch, spans), strict=True):
            for was, now in zip(before, after, strict=True):
                count += 1
                changed += was != [old[token] for token in now]
                unknown += reduced.unk_token_id in now and full.unk_token_id not in was
    return Segmentation(count, changed, unknown)


def _cut_words(
    tokenizer: Any, lines: Sequence[str], words: Sequence[Sequence[tuple[int, int]]]
) -> Iterator[list[list[int]]]:
    """Yields for each line the ids of the tokens that each of its words shares a character with."""
    encoded = tokenizer(list(lines), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    for ids, spans, of_line in zip(encoded["input_ids"], encoded["offset_mapping"], words, strict=True):
        cut: list[list[int]] = [[] for _ in of_line]
        ends = [end for _, end in of_line]
        for token, (start, end) in zip(ids, spans, strict=True):
            at = bisect.bisect_right(ends, start)
            while at < len(of_line) and of_line[at][0] < end:
                cut[at].append(token)
                at += 1
        yield cut


def _tokenize_batches(tokenizer: Any, texts: Iterable[str]) -> Iterator[list[list[int]]]:
    """Yields for a batch of texts at a time the token ids of each text, without special tokens."""
    rest = iter(texts)
    while batch := list(itertools.islice(rest, _BATCH)):
        yield tokenizer(
            batch, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )["input_ids"]


def _vocabulary(model: Mapping[str, Any]) -> dict[str, int]:
    """Returns token -> id of the model in a tokenizer.json; added tokens count only if the model has them, too."""
    if model["type"] == "Unigram":
        return {token: place for place, (token, _) in enumerate(model["vocab"])}
    return model["vocab"]


def _places_of_ids(content: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yields the container and the key of every token id that a tokenizer.json has outside its vocabulary."""
    for token in content["added_tokens"]:
        yield token, "id"
    if content["model"].get("unk_id") is not None:
        yield content["model"], "unk_id"
    queue = [content["post_processor"] or {}]
    while queue:
        processor = queue.pop()
        queue += processor.get("processors", ())  # a sequence has several
        for special in processor.get("special_tokens", {}).values():
            yield from ((special["ids"], place) for place in range(len(special["ids"])))
        for role in {"sep", "cls"} & processor.keys():
            yield processor[role], 1  # a pair of token and id


def _indispensable(content: Mapping[str, Any], vocabulary: Mapping[str, int]) -> Iterator[int]:
    """Yields the ids of the unknown token, of the bytes that can spell any text, and of the token of lowest score."""
    from tokenizers import pre_tokenizers

    model = content["model"]
    tokens = [model.get("unk_token")]
    if '"type": "ByteLevel"' in json.dumps([content["normalizer"], content["pre_tokenizer"]]):
        tokens += pre_tokenizers.ByteLevel.alphabet()
    if model.get("byte_fallback"):
        tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    yield from (vocabulary[token] for token in tokens if token in vocabulary)
    if model["type"] == "Unigram":
        yield min(range(len(model["vocab"])), key=lambda place: model["vocab"][place][1])


def _characters(model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> Iterator[int]:
    prefix, suffix = _affixes(model)
    for token, old in vocabulary.items():
        if len(token) == 1 or len(token.removeprefix(prefix).removesuffix(suffix)) == 1:
            yield old


def _affixes(model: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the prefix of all tokens of a word except the first, and the suffix of a word's last token."""
    return model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""


def _keep_derivations(model: Mapping[str, Any], vocabulary: Mapping[str, int], keep: set[int]) -> list[Sequence[str]]:
    """Adds the tokens of its tokens' derivations to `keep`; returns the derivations' merges in the order of ranks."""
    prefix, suffix = _affixes(model)
    merges = model["merges"]
    ranks = {(left, right): rank for rank, (left, right) in enumerate(merges)}
    used: set[int] = set()
    for token in [token for token, old in vocabulary.items() if old in keep]:
        used.update(_derivation(token, ranks, prefix, suffix))
    keep.update(vocabulary[part] for rank in used for part in merges[rank])
    keep.update(vocabulary[left + right.removeprefix(prefix)] for left, right in (merges[rank] for rank in used))
    return [merges[rank] for rank in sorted(used)]


def _derivation(token: str, ranks: Mapping[tuple[str, str], int], prefix: str, suffix: str) -> list[int]:
    """Returns the ranks of the merges that BPE applies to the characters of a token.

    The list is empty if the merges do not result in that token; then they never do, in any word.
    """
    begins, ends = prefix and token.startswith(prefix), suffix and token.endswith(suffix)
    parts = list(token.removeprefix(prefix).removesuffix(suffix))
    parts = [prefix + part if begins or place else part for place, part in enumerate(parts)]
    if ends and parts:
        parts[-1] += suffix
    applied = []
    while len(parts) > 1:
        rank, place = min((ranks.get(pair, math.inf), place) for place, pair in enumerate(itertools.pairwise(parts)))
        if rank == math.inf:
            return []
        applied.append(int(rank))
        parts[place : place + 2] = [parts[place] + parts[place + 1].removeprefix(prefix)]
    return applied


def _settings(tokenizer: Any) -> dict[str, Any]:
    """Returns the settings of a fast tokenizer that are not in its tokenizer.json."""
    settings = {
        **tokenizer.special_tokens_map,
        "model_input_names": tokenizer.model_input_names,
        "model_max_length": tokenizer.model_max_length,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "clean_up_tokenization_spaces": tokenizer.clean_up_tokenization_spaces,
    }
    # transformers 4 has these in the map, and here a mapping with another meaning.
    extra = getattr(tokenizer, "extra_special_tokens", None)
    if isinstance(extra, list) and extra:
        settings["additional_special_tokens"] = extra
    if tokenizer.chat_template is not None:
        settings["chat_template"] = tokenizer.chat_template
    return settings


def _prefix_space(content: Mapping[str, Any]) -> dict[str, bool]:
    """Returns a tokenizer.json's setting for the space before a text; transformers 4 needs it as an argument, too."""
    pre_tokenizer = content["pre_tokenizer"] or {}
    return {key: pre_tokenizer[key] for key in ("add_prefix_space",) if key in pre_tokenizer}
