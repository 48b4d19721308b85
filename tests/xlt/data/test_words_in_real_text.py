"""How many words of real treebanks and NER data are cut otherwise than in running text, by family of tokenizer.

`python -m pytest -s` of this file prints the shares.
"""

from __future__ import annotations

import bisect
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.source_configs import source_config
from tests.tokenizer_kinds import FAMILIES
from xlt.data.encoding import Encoder
from xlt.data.readers import conll, conllu

pytestmark = [pytest.mark.real, pytest.mark.slow]

TREEBANKS = {"eng": "English-EWT", "mlt": "Maltese-MUDT", "tur": "Turkish-BOUN", "vie": "Vietnamese-VTB"}
NER = ["yor", "amh"]
SENTENCES, ENTRIES = 800, 4000


@pytest.fixture(scope="module")
def folder() -> Path:
    if not (path := os.environ.get("XLT_DATA_DIR")):
        pytest.skip("XLT_DATA_DIR is not set: the folder of real data")
    return Path(path)


def _sentences(name: str, folder: Path) -> list[tuple[list[str], str, str | None]]:
    """The words of each sentence, its running text, and the text that the reader gives."""
    if name in TREEBANKS:
        file = folder / "ud" / f"UD_{TREEBANKS[name]}" / "test.conllu"
        texts = re.findall(r"^#\s*text\s*=\s*(.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        examples = list(conllu.read(source_config("conllu", name, str(file))))
        found = [(list(e.words or ()), text, e.text) for e, text in zip(examples, texts, strict=True)]
    else:
        file = folder / "masakhaner" / name / "test.txt"
        examples = list(conll.read(source_config("conll", name, str(file), fields={"words": "0", "ner": "-1"})))
        found = [(list(e.words or ()), " ".join(e.words or ()), e.text) for e in examples]
    return found[:SENTENCES]


def _pieces_in_text(tokenizer: Any, words: list[str], text: str) -> tuple[list[list[int]], set[int]] | None:
    """The ids of the pieces of the text whose first visible character lies in each word; None if it lacks a word.

    Also the numbers of the words that share a piece with another one.
    """
    begins, at = [], 0
    for word in words:
        while text[at : at + 1].isspace():
            at += 1
        if not text.startswith(word, at):
            return None
        begins.append(at)
        at += len(word)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    result: list[list[int]] = [[] for _ in words]
    shared: set[int] = set()
    for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        visible = next((place for place in range(start, end) if not text[place].isspace()), end)
        first, last = bisect.bisect_right(begins, visible) - 1, bisect.bisect_left(begins, end) - 1
        result[first].append(token)
        shared.update(range(first, last + 1) if last > first else ())
    return result, shared


@pytest.mark.parametrize("name", [*TREEBANKS, *NER])
def test_words_are_cut_as_in_running_text_unless_a_piece_of_it_stands_for_two(name: str, folder: Path) -> None:
    sentences = _sentences(name, folder)
    unexplained = {}
    for family, train in FAMILIES.items():
        tokenizer = train([text for _, text, _ in sentences], ENTRIES)
        found = Encoder(tokenizer).words([words for words, _, _ in sentences], [given for _, _, given in sentences])
        words, pieces, pieces_in_text = 0, 0, 0
        otherwise: list[bool] = []  # for each word with another cut, whether it shares a piece with another word
        for (forms, text, _), cut in zip(sentences, found, strict=True):
            if (in_text := _pieces_in_text(tokenizer, forms, text)) is None:
                continue  # words of a multi-word token that are not in the text
            expected, shared = in_text
            words += len(forms)
            otherwise += [at in shared for at in range(len(forms)) if cut[at] != expected[at]]
            pieces += sum(map(len, cut))
            pieces_in_text += sum(map(len, expected))
        share, more = 100 * len(otherwise) / words, 100 * (pieces / pieces_in_text - 1)
        unexplained[family] = len(otherwise) - sum(otherwise)
        print(f"{name} {family}: {share:.2f}% of {words} words, {more:+.2f}% pieces; unexplained {unexplained[family]}")
    assert not any(unexplained.values()), unexplained
