"""Bilingual vocabularies: the tokens of a multilingual tokenizer that two languages use (Thesis §5.3.2).

After Abdaoui et al. (2020). A reduced tokenizer is a tokenizer of its own; `piece_map` says which rows of the full
model's embeddings its tokens have.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlt.errors import UsageError

_KINDS = ("WordPiece", "Unigram", "BPE")
_BATCH = 10_000  # texts tokenized at once


@dataclass(frozen=True)
class Segmentation:
    """How often a reduced tokenizer cuts words otherwise than the full one; all three count occurrences in the text.

    Attributes:
        words: separated by white space.
        changed: those cut otherwise.
        unknown: those of which the reduced tokenizer, and not the full one, makes an unknown token.
    """

    words: int
    changed: int
    unknown: int

    @property
    def changed_share(self) -> float:
        """In [0, 1]; 0 of no words."""
        return self.changed / self.words if self.words else 0.0


def count_tokens(tokenizer: Any, lines: Iterable[str]) -> Tensor:
    """(len(tokenizer),) int64: how often each token id occurs in the lines, without special tokens around them."""
    counts = torch.zeros(len(tokenizer), dtype=torch.int64)
    for ids in _tokenized(tokenizer, lines):
        counts += torch.bincount(torch.tensor(list(itertools.chain(*ids)), dtype=torch.int64), minlength=len(counts))
    return counts


def frequent_tokens(counts: Iterable[Tensor], threshold: float) -> set[int]:
    """The token ids whose unigram probability is at least `threshold` in the corpus of any language.

    Thesis §5.3.2: 1e-6, and the source or the target language. A token that no corpus has is never frequent.

    Args:
        counts: for each language, (tokenizer entries,) int64: how often each token id occurs in its corpus.
        threshold: inclusive; compared in float64, where a quotient of counts and the decimal it equals are the same.
    """
    found: set[int] = set()
    for count in counts:
        frequent = (count > 0) & (count.double() / count.sum() >= threshold)
        found.update(frequent.nonzero().flatten().tolist())
    return found


def reduce_vocabulary(tokenizer: Any, wanted: Collection[int], *, characters: bool) -> tuple[Any, Tensor]:
    """A tokenizer of the wanted tokens and of those that it cannot do without.

    Besides `wanted` it has all special and added tokens, the unknown token, what byte-level models and byte fallback
    spell the rest with, and all ids up to the padding token's: model families such as XLM-R count positions from the
    padding id, which therefore stays what it is. (A tokenizer whose padding token is its last is hardly reduced.)

    A word (what the pre-tokenizer makes of a text) is cut as before if all its tokens are kept:

    - WordPiece takes the longest token that fits, from left to right. The longest of all fits and is kept, so it is
      the longest of those kept. Only a word that the full tokenizer makes the unknown token of, because the longest
      token led it to where nothing fits, may be cut now.
    - Unigram takes the segmentation of the highest score. The one taken still has its score; of the others some have
      gone, and none has a higher score: a character that was a token may be unknown now, but an unknown character
      costs more than any token, and the same as before, because the lowest-scored token, which decides that, is kept.
    - BPE applies, of all merges that it can, the first in rank. None that it applied to the word goes over a border
      between two tokens of the result, so those inside a token are the ones it applies to that token alone: its
      derivation. For each kept token, that is kept too, tokens and merges; no other merge is. At each step, then, the
      merge that was first of all is still there, and the first of fewer. (With `ignore_merges`, a word that is a
      token is one piece before and after.)

    Args:
        tokenizer: a fast one of type WordPiece, Unigram or BPE.
        wanted: token ids.
        characters: also keep all tokens of one character (a WordPiece also after its prefix), so that a character
            that is a token by itself never becomes unknown.
    Returns:
        The tokenizer, a `PreTrainedTokenizerFast` with the full one's special tokens and settings, and (entries,)
        int64: the ids that its tokens have in `tokenizer`, ascending.
    Raises:
        UsageError: another type of tokenizer, or one whose ids have gaps.
        ValueError: a wanted id is not the tokenizer's.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    written = json.loads(tokenizer.backend_tokenizer.to_str())
    written["truncation"] = written["padding"] = None  # of its last call
    model = written["model"]
    if model["type"] not in _KINDS:
        raise UsageError(f"tokenizer of type {model['type']}: cannot be reduced; those of {', '.join(_KINDS)} can")
    vocabulary = _vocabulary(model)
    places = list(_places_of_ids(written))
    added = {place["content"]: place["id"] for place in written["added_tokens"]}
    if unknown := sorted(set(wanted).difference(vocabulary.values(), added.values())):
        raise ValueError(f"token id {unknown[0]}: the tokenizer has none such")

    keep = {*wanted, *tokenizer.all_special_ids, *(holder[key] for holder, key in places)}
    keep.update(_indispensable(written, vocabulary))
    if tokenizer.pad_token_id is not None:
        keep.update(range(tokenizer.pad_token_id + 1))
    if characters:
        keep.update(_characters(model, vocabulary))
    if model["type"] == "BPE":
        model["merges"] = _keep_derivations(model, vocabulary, keep)

    kept = sorted(keep)
    new = {old: at for at, old in enumerate(kept)}
    if model["type"] == "Unigram":
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in new]
    else:
        model["vocab"] = {token: new[old] for token, old in vocabulary.items() if old in new}
    for holder, key in places:
        holder[key] = new[holder[key]]
    backend = Tokenizer.from_str(json.dumps(written))
    # An added token that the model does not have gets the next id, whatever its entry says.
    moved = [token for token, old in added.items() if backend.token_to_id(token) != new[old]]
    if moved or backend.get_vocab_size(with_added_tokens=True) != len(kept):
        where = f", such as before {moved[0]}" if moved else ""
        raise UsageError(f"tokenizer: cannot be reduced, because its ids have gaps{where}")
    reduced = PreTrainedTokenizerFast(tokenizer_object=backend, **_settings(tokenizer), **_prefix_space(written))
    return reduced, torch.tensor(kept, dtype=torch.int64)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Writes the tokenizer's files, such that transformers 4 reads what transformers 5 wrote.

    5 calls `PreTrainedTokenizerFast` `TokenizersBackend`, which 4 does not know, and lists additional special tokens
    under a key of which 4 expects a mapping; 5 reads either.
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
    """(len(reduced),) int64: the id that each token of `reduced` has in `full`, by how the token is written.

    Raises:
        UsageError: `full` lacks one.
    """
    ids = full.get_vocab()
    tokens = reduced.convert_ids_to_tokens(range(len(reduced)))
    for token in tokens:
        if token not in ids:
            raise UsageError(f"token {token!r}: the full tokenizer has none such, so the other is no reduction of it")
    return torch.tensor([ids[token] for token in tokens], dtype=torch.int64)


def compare_segmentation(full: Any, reduced: Any, kept: Tensor, lines: Iterable[str]) -> Segmentation:
    """How the words of the lines are cut by both tokenizers, each word for itself.

    Args:
        full, reduced: the tokenizers.
        kept: (len(reduced),) int64: the ids that the tokens of `reduced` have in `full`.
        lines: text; words are separated by white space.
    """
    words = Counter(word for line in lines for word in line.split())
    old = kept.tolist()
    changed = unknown = 0
    before = itertools.chain.from_iterable(_tokenized(full, words))
    after = itertools.chain.from_iterable(_tokenized(reduced, words))
    for count, was, now in zip(words.values(), before, after, strict=True):
        if was != [old[token] for token in now]:
            changed += count
        if reduced.unk_token_id in now and full.unk_token_id not in was:
            unknown += count
    return Segmentation(words.total(), changed, unknown)


def _tokenized(tokenizer: Any, texts: Iterable[str]) -> Iterator[list[list[int]]]:
    """Token ids of each text without special tokens, a batch of texts at a time."""
    rest = iter(texts)
    while batch := list(itertools.islice(rest, _BATCH)):
        yield tokenizer(
            batch, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )["input_ids"]


def _vocabulary(model: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id of a model as tokenizer.json has it; added tokens are not of it unless they are the model's too."""
    if model["type"] == "Unigram":
        return {token: at for at, (token, _) in enumerate(model["vocab"])}
    return model["vocab"]


def _places_of_ids(written: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every token id that a tokenizer.json names outside its vocabulary."""
    for token in written["added_tokens"]:
        yield token, "id"
    if written["model"].get("unk_id") is not None:
        yield written["model"], "unk_id"
    waiting = [written["post_processor"] or {}]
    while waiting:
        processor = waiting.pop()
        waiting += processor.get("processors", ())  # of a sequence
        for special in processor.get("special_tokens", {}).values():
            yield from ((special["ids"], at) for at in range(len(special["ids"])))
        for role in {"sep", "cls"} & processor.keys():
            yield processor[role], 1  # a pair of token and id


def _indispensable(written: Mapping[str, Any], vocabulary: Mapping[str, int]) -> Iterator[int]:
    """Ids of the unknown token, of the bytes that any text can be spelt with, and of the lowest-scored token."""
    from tokenizers import pre_tokenizers

    model = written["model"]
    tokens = [model.get("unk_token")]
    if '"type": "ByteLevel"' in json.dumps([written["normalizer"], written["pre_tokenizer"]]):
        tokens += pre_tokenizers.ByteLevel.alphabet()
    if model.get("byte_fallback"):
        tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    yield from (vocabulary[token] for token in tokens if token in vocabulary)
    if model["type"] == "Unigram":
        yield min(range(len(model["vocab"])), key=lambda at: model["vocab"][at][1])


def _characters(model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> Iterator[int]:
    prefix, suffix = _affixes(model)
    for token, old in vocabulary.items():
        if len(token) == 1 or len(token.removeprefix(prefix).removesuffix(suffix)) == 1:
            yield old


def _affixes(model: Mapping[str, Any]) -> tuple[str, str]:
    """What a token that is not a word's first begins with, and what one that is a word's last ends with."""
    return model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""


def _keep_derivations(model: Mapping[str, Any], vocabulary: Mapping[str, int], keep: set[int]) -> list[Sequence[str]]:
    """Adds to `keep` what the tokens in it are merged from; the merges for that, in the order of their ranks."""
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
    """Ranks of the merges that BPE applies to the characters of a token; none if they do not end in that token.

    Such a token is never the result of merges, in whatever word.
    """
    begins, ends = prefix and token.startswith(prefix), suffix and token.endswith(suffix)
    parts = list(token.removeprefix(prefix).removesuffix(suffix))
    parts = [prefix + part if begins or at else part for at, part in enumerate(parts)]
    if ends and parts:
        parts[-1] += suffix
    applied = []
    while len(parts) > 1:
        rank, at = min((ranks.get(pair, math.inf), at) for at, pair in enumerate(itertools.pairwise(parts)))
        if rank == math.inf:
            return []
        applied.append(int(rank))
        parts[at : at + 2] = [parts[at] + parts[at + 1].removeprefix(prefix)]
    return applied


def _settings(tokenizer: Any) -> dict[str, Any]:
    """What a fast tokenizer is told besides its tokenizer.json."""
    settings = {
        **tokenizer.special_tokens_map,
        "model_input_names": tokenizer.model_input_names,
        "model_max_length": tokenizer.model_max_length,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "clean_up_tokenization_spaces": tokenizer.clean_up_tokenization_spaces,
    }
    # transformers 4 has them in the map already, and a mapping of something else here.
    extra = getattr(tokenizer, "extra_special_tokens", None)
    if isinstance(extra, list) and extra:
        settings["additional_special_tokens"] = extra
    if tokenizer.chat_template is not None:
        settings["chat_template"] = tokenizer.chat_template
    return settings


def _prefix_space(written: Mapping[str, Any]) -> dict[str, bool]:
    """What a tokenizer.json says of spaces; unless it is told so too, transformers 4 loads it as if it said False."""
    said = written["pre_tokenizer"] or {}
    return {key: said[key] for key in ("add_prefix_space",) if key in said}
