"""Reduced tokenizers keep roles, settings and post-processors, and other programs can load their files."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.tokenizer_kinds import KINDS
from tests.xlt.models.small_tokenizers import (
    ALL_KINDS,
    TEXTS,
    ids_of,
    segment,
    tokens_of,
    wordpiece,
)
from xlt.errors import UsageError
from xlt.models.vocabulary import SPECIAL_TOKENS
from xlt.models.vocabulary_reduction import (
    piece_map,
    reduce_vocabulary,
    save_tokenizer,
)


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
    full.eos_token = tokens_of(full)[-20]  # a role given to a token like others
    reduced, kept = reduce_vocabulary(full, [], characters=False)
    assert reduced.special_tokens_map == full.special_tokens_map
    assert sorted(reduced.all_special_tokens) == sorted(full.all_special_tokens)
    assert {"<left>", "<right>"} < set(reduced.all_special_tokens)
    assert kept[reduced.all_special_ids].tolist() == ids_of(full, *reduced.all_special_tokens)
    names = "model_input_names padding_side truncation_side model_max_length chat_template clean_up_tokenization_spaces"
    for name in names.split():
        assert getattr(reduced, name) == getattr(full, name), name
    assert segment(reduced, "<left>") == ["<left>"]


def test_all_ids_up_to_the_padding_tokens_are_kept() -> None:
    full = KINDS["Unigram"]()
    full.pad_token = tokens_of(full)[20]
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
        assert segment(reduced, "b") == ["<unk>"]


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
    reduced, kept = reduce_vocabulary(full, ids_of(full, "e"), characters=False)
    assert tokens_of(reduced) == ["<pad>", "<unk>", "<s>", "</s>", "e", "<mask>"]
    for texts in (["e"], ["e", "<mask>e"]):
        before, after = (tokenizer(*texts, return_token_type_ids=True) for tokenizer in (full, reduced))
        assert kept[after["input_ids"]].tolist() == before["input_ids"]
        assert after["token_type_ids"] == before["token_type_ids"]
    assert reduced.convert_ids_to_tokens(reduced("e")["input_ids"]) == ["<s>", "e", "</s>"]


# Loading elsewhere.


def test_a_token_is_found_in_the_full_vocabulary_by_how_it_is_written(full: Any) -> None:
    reduced, kept = reduce_vocabulary(full, range(0, len(full), 3), characters=True)
    assert torch.equal(piece_map(reduced, full), kept)
    assert kept.dtype == torch.int64
    assert kept.tolist() == sorted(kept.tolist())
    assert tokens_of(reduced) == full.convert_ids_to_tokens(kept.tolist())


def test_a_token_that_the_full_vocabulary_lacks_is_named() -> None:
    full, other = wordpiece(["a", "b"]), wordpiece(["b", "cd", "ef"])
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
