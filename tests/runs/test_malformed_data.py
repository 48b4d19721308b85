"""Broken data files through the real command: exit code 2, one line with file and line (or question), nothing left."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

EXPERIMENT = """\
# @package _global_
defaults:
  - override /recipe: nano_distil
  - override /tracker: silent
  - _self_
data: {held_out_fraction: 0.5}
train: {max_steps: 1, evaluate_every_steps: 1}
device: cpu
method: {density: 0.1}
"""
WORD = "{}\t{}\t_\t{}\t_\t_\t{}\t{}\t_\t_\n"
SENTENCE = WORD.format(1, "the", "DET", 2, "det") + WORD.format(2, "cat", "NOUN", 0, "root") + "\n"


@dataclass(frozen=True)
class Shelf:
    """A data set of conf/source as a task uses it: the words of the command, and a right file."""

    words: tuple[str, ...]
    file: str
    right: str
    more: tuple[tuple[str, str], ...] = ()


def squad(context: str = "a b c", start: Any = 2, id: str = "q1", **question: Any) -> str:
    asked = [{"id": id, "question": "which?", "answers": [{"text": "b", "answer_start": start}]} | question]
    asked += [{"id": "q2", "question": "what?", "answers": [{"text": "c", "answer_start": 4}]}]
    return json.dumps({"data": [{"paragraphs": [{"context": context, "qas": asked}]}]}, indent=1)


LINES = "task.max_length=40"
UD, NER, NLI = "ud/UD_English-EWT/train.conllu", "masakhaner/hau/train.txt", "americasnli/aym/dev.tsv"
HEADER = "id\tlanguage\tpremise\thypothesis\tlabel\n"
JSON_LINES = ("data.sources.x.reader=jsonl", "data.sources.x.fields={text: text, label: label}")
SHELVES = {
    "pos": Shelf(("task=pos", LINES, "+source@data.sources.x=ud_eng"), UD, SENTENCE * 4),
    "parsing": Shelf(("task=parsing", LINES, "+source@data.sources.x=ud_eng"), UD, SENTENCE * 4),
    "ner": Shelf(
        ("task=ner", LINES, "+source@data.sources.x=masakhaner", "data.sources.x.language=hau"),
        NER,
        "the O\ncat B-PER\n\nmat B-DATE\n\n",
    ),
    "nli": Shelf(
        (
            "task=nli",
            LINES,
            "+source@data.sources.x=americasnli",
            "data.sources.x.language=aym",
            "data.sources.x.split=dev",
        ),
        NLI,
        HEADER + "1\taym\tthe cat\tsat\tneutral\n2\taym\tthe\ton\tentailment\n",
    ),
    "sentiment": Shelf(
        ("task=sentiment", LINES, "+source@data.sources.x=smsa"),
        "smsa/train.tsv",
        'the "cat sat\tpositive\non the mat\tnegative\n',
    ),
    "sentiment, csv": Shelf(
        ("task=sentiment", LINES, "+source@data.sources.x=nusax_senti", "data.sources.x.language=ace"),
        "nusax/senti/ace/train.csv",
        'id,text,label\n1,"the, cat",positive\n2,"sat\n",neutral\n',
    ),
    "sentiment, json lines": Shelf(
        ("task=sentiment", LINES, "+source@data.sources.x=smsa", *JSON_LINES),
        "smsa/train.jsonl",
        '{"text": "the cat", "label": "positive"}\n{"text": "sat", "label": "neutral"}\n',
    ),
    "qa": Shelf(
        ("task=qa", LINES, "task.stride=4", "task.max_question_tokens=16", "+source@data.sources.x=squad"),
        "squad/train.json",
        squad(),
    ),
    "text": Shelf(
        ("task=mlm_lines", LINES, "language=fao", "+source@data.sources.x=mono"),
        "mono/fo.txt",
        "the cat\nsat\n" * 4,
    ),
    "parallel": Shelf(
        (
            "task=mlm_lines",
            LINES,
            "language=aym",
            "+source@data.sources.x=americasnlp2021",
            "data.sources.x.language=aym",
        ),
        "americasnlp2021/aym/train.es",
        "the cat\nsat\n",
        (("americasnlp2021/aym/train.aym", "on\nmat\n"),),
    ),
}

# What is wrong -> which data set, what its file is instead, and what the one line has to say.
BROKEN: dict[str, tuple[str, str | bytes, list[str]]] = {
    "treebank line with too few columns": ("pos", SENTENCE + "1\tthe\n", ["train.conllu:4: 2 tab-separated columns"]),
    "treebank with a gap in its numbers": ("pos", SENTENCE[1:], ["train.conllu:1: word id ''"]),
    "treebank in Latin-1": ("pos", (SENTENCE * 2).replace("cat", "cát").encode("latin-1"), ["conllu:2: not UTF-8"]),
    "unknown part of speech": (
        "pos",
        SENTENCE.replace("NOUN", "NOOUN"),
        ["conllu:1: label 'NOOUN' is not in task.labels"],
    ),
    "treebank without a sentence": ("pos", "# text = \n\n", ["data.sources.x: split train of", "has no examples"]),
    "head outside of the sentence": ("parsing", SENTENCE.replace("\t2\tdet", "\t9\tdet"), ["train.conllu:1: ", "'9'"]),
    "head that is no number": ("parsing", SENTENCE.replace("\t2\tdet", "\t_\tdet"), ["train.conllu:1: ", "'_'"]),
    "no word that is the root": ("parsing", SENTENCE.replace("\t0\troot", "\t1\troot"), ["train.conllu:1: ", "head 0"]),
    "unknown relation": ("parsing", SENTENCE.replace("det", "dett"), ["conllu:1: ", "relation 'dett' is not in"]),
    "word without a tag": ("ner", "the O\ncat\n", ["train.txt:2: 1 columns", "the first line has 2"]),
    "tag without a word": ("ner", "the O\n\n B-PER\n", ["train.txt:3: the line begins with a blank"]),
    "unknown entity": ("ner", "the O\n\ncat B-MISC\n", ["train.txt:3: label 'B-MISC' is not in task.labels"]),
    "NLI line cut short": ("nli", HEADER + "1\taym\tthe cat\tsat\n", ["dev.tsv:2: ", "4 columns", "the header has 5"]),
    "NLI without a header": ("nli", "1\taym\tthe cat\tsat\tneutral\n", ["dev.tsv:1: no column 'id' (fields.id)"]),
    "unknown NLI label": ("nli", HEADER + "1\taym\ta\tb\tmaybe\n", ["dev.tsv:2: label 'maybe' is not in task.labels"]),
    "empty NLI file": ("nli", "", ["dev.tsv: ", "has no line", "id, premise, hypothesis, label"]),
    "NLI header alone": ("nli", HEADER, ["data.sources.x: split dev of", "has no examples"]),
    "sentiment row with a tab too many": (
        "sentiment",
        "a\tpositive\nb\tc\tneutral\n",
        ["train.tsv:2: the row has 3 columns"],
    ),
    "sentiment in Latin-1": ("sentiment", b"a\tpositive\nb\xe1\tneutral\n", ["train.tsv:2: not UTF-8"]),
    "quote that stays open": (
        "sentiment, csv",
        'id,text,label\n1,a,positive\n2,"b,neutral\n',
        ["train.csv:3: not a CSV record"],
    ),
    "column that is named otherwise": (
        "sentiment, csv",
        "id,tweet,label\n1,a,positive\n",
        ["train.csv:1: no column 'text' (fields.text)", "id, tweet, label"],
    ),
    "header with a name twice": ("sentiment, csv", "id,text,label,text\n", ["train.csv:1: the header has 'text' more"]),
    "JSON line cut short": (
        "sentiment, json lines",
        '{"text": "a", "label": "neutral"}\n{"text": "b", "la',
        ["train.jsonl:2: not JSON"],
    ),
    "JSON line without a label": ("sentiment, json lines", '{"text": "a"}\n', ["train.jsonl:1: no column 'label'"]),
    "JSON cut short": ("qa", squad()[:-60], ["train.json:", "not JSON"]),
    "SQuAD without data": ("qa", "{}", ["train.json: there is no 'data'"]),
    "half of an emoji": (
        "qa",
        squad(question="\ud83d?"),
        ["train.json: question q1: '\\ud83d' at character 1", "half of a surrogate pair"],
    ),
    "answer that does not stand there": (
        "qa",
        squad(start=1),
        ["train.json: question q1: at answer_start=1 ", "' '"],
    ),
    "answer behind the context": ("qa", squad(start=9), ["train.json: question q1: answer_start=9", "outside"]),
    "question without answers": ("qa", squad(answers=[]), ["train.json: question q1: ", "no answers"]),
    "question number twice": ("qa", squad(id="q2"), ["train.json: question q2: ", "same id"]),
    "text in Latin-1": ("text", "the cat\ná\n".encode("latin-1"), ["fo.txt:2: not UTF-8"]),
    "text without a line": ("text", " \n\n", ["data.sources.x: split text of", "has no examples"]),
    "parallel files of unequal length": (
        "parallel",
        "the cat\nsat\nmat\n",
        ["train.es:3: ", "train.aym ends"],
    ),
    "parallel file in Latin-1": ("parallel", b"the\nc\xe1t\n", ["train.es:2: not UTF-8"]),
}


@pytest.fixture
def call(tmp_path: Path, tiny_bert: Path, command: Callable[..., Any]) -> Callable[..., Any]:
    """Calls `xlt` on a data set whose file has this content."""
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    (tmp_path / "configs" / "experiment" / "right.yaml").write_text(EXPERIMENT, encoding="utf-8")

    def run(shelf: Shelf, content: str | bytes) -> Any:
        for name, text in ((shelf.file, content), *shelf.more):
            file = tmp_path / "data" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
        given = ("--config-dir", tmp_path / "configs", "experiment=right", f"data_dir={tmp_path / 'data'}")
        return command(*given, f"model.path={tiny_bert}", *shelf.words)

    return run


@pytest.mark.parametrize("name", BROKEN)
def test_broken_data_get_one_line_and_leave_nothing(name: str, call: Callable[..., Any]) -> None:
    shelf, content, fragments = BROKEN[name]
    ended = call(SHELVES[shelf], content)
    assert (ended.code, len(ended.lines)) == (2, 1), ended
    assert ended.lines[0].startswith("xlt: ")
    assert all(fragment in ended.lines[0] for fragment in fragments), ended.lines
    assert not ended.out
    assert not ended.left


@pytest.mark.parametrize("name", SHELVES)
def test_the_same_data_unbroken_are_learned_from(name: str, call: Callable[..., Any]) -> None:
    ended = call(SHELVES[name], SHELVES[name].right)
    assert ended.code == 0, ended.lines
    assert any(path.endswith("module.safetensors") for path in ended.left)
