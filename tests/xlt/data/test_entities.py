"""Named entities as text: from tags and from XTREME-UP's spans of bytes, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.source_configs import source_config
from xlt.config import InstructionConfig
from xlt.data.entities import NO_ENTITIES, entities_of_tags, parsed, written
from xlt.data.sources import read_source
from xlt.errors import UsageError

TEMPLATE = InstructionConfig(prompt="{language}: {text}", completion="{entities}")


def test_tags_become_entities_and_text_becomes_them_again() -> None:
    words = ["Ada", "Lovelace", "Ana", "saw", "London"]
    found = entities_of_tags(words, ["B-PER", "I-PER", "B-PER", "O", "I-LOC"])
    assert found == (("PER", "Ada Lovelace"), ("PER", "Ana"), ("LOC", "London"))
    assert written(found) == "PER: Ada Lovelace $$ PER: Ana $$ LOC: London"
    assert parsed(written(found)) == [*found]
    assert written(()) == NO_ENTITIES and parsed(NO_ENTITIES) == []


def test_an_entity_can_have_a_colon_and_what_is_no_entity_is_left_out() -> None:
    assert parsed("DATE: 10:30  today $$ PER $$ : x $$ LOC:$$ORG: A") == [("DATE", "10:30 today"), ("ORG", "A")]


def _source(tmp_path: Path, record: dict[str, Any], **options: Any) -> Any:
    (tmp_path / "train.jsonl").write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    fields = {"text": "text", "spans": "spans"}
    return source_config("jsonl", "yor", str(tmp_path), fields=fields, instruction=TEMPLATE, **options)


def test_spans_count_bytes(tmp_path: Path) -> None:
    text = "Ọjọ́ Ajé ni Èkó"
    at = len("Ọjọ́ Ajé ni ".encode())
    spans = [
        {"start_byte": 0, "limit_byte": len("Ọjọ́ Ajé".encode()), "label": "DATE"},
        {"start_byte": at, "limit_byte": len(text.encode()), "label": "LOC"},
    ]
    (found,) = read_source("s", _source(tmp_path, {"text": text, "spans": spans}), 1)
    assert [turn.text for turn in found.turns] == [f"Yoruba: {text}", "DATE: Ọjọ́ Ajé $$ LOC: Èkó"]
    (renamed,) = read_source("s", _source(tmp_path, {"text": text, "spans": spans}, labels={"DATE": "O"}), 1)
    assert renamed.turns[-1].text == "LOC: Èkó"
    (none,) = read_source("s", _source(tmp_path, {"text": text, "spans": []}), 1)
    assert none.turns[-1].text == NO_ENTITIES


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([{"start_byte": 0, "limit_byte": 1, "label": "LOC"}], "train.jsonl:1: .*ends inside a character"),
        ([{"start_byte": 0, "limit_byte": 99, "label": "LOC"}], "train.jsonl:1: .*0 to 99.*6 bytes"),
        ([{"start_byte": 3, "limit_byte": 3, "label": "LOC"}], "3 to 3"),
        ([{"start_byte": 0, "limit_byte": 6, "label": "A:B"}], "'A:B'"),
        ([{"start": 0}], "start_byte, limit_byte and label"),
        ("LOC", "start_byte, limit_byte and label"),
        (None, "start_byte, limit_byte and label"),
    ],
)
def test_a_span_that_is_no_part_of_the_text_is_refused(spans: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        list(read_source("s", _source(tmp_path, {"text": "Èkó.", "spans": spans}), 1))


def test_tags_of_a_source_are_written_as_entities(tmp_path: Path) -> None:
    record = {"w": ["Ada", "in", "London", "."], "t": ["B-PER", "O", "B-LOC", "O"]}
    (tmp_path / "train.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    source = source_config(
        "jsonl", "eng", str(tmp_path), fields={"words": "w", "ner": "t"}, instruction=TEMPLATE, scheme="IOB2"
    )
    (found,) = read_source("s", source, 1, entity_column="ner")
    assert [turn.text for turn in found.turns] == ["English: Ada in London .", "PER: Ada $$ LOC: London"]
    with pytest.raises(UsageError, match="'entities' in a template"):
        list(read_source("s", source, 1))
