from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import KeyValidationError

from tests.source_configs import source_config
from xlt.compose import checked, compose, hydra_ready
from xlt.compose.messages import one_line
from xlt.config import HubConfig, SourceConfig


def faults(**changes: Any) -> list[str]:
    return list(source_config("csv", "eng", "x", **changes).faults("s"))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"codes": {"nob": "False"}}, "s.codes.nob=False"),
        ({"labels": {"negative": False}}, "s.labels.negative=False"),
        ({"labels": {"positive": True}}, "s.labels.positive=True"),
        ({"fields": {"text": "True"}}, "s.fields.text=True"),
        ({"files": {"dev": "True"}}, "s.files.dev=True"),
        ({"features": {"formal": "True"}}, "s.features.formal=True"),
        ({"languages": ["eng", "False"]}, "s.languages[1]=False"),
        ({"hub": HubConfig("a/b", "False", None, {}, {}, {})}, "s.hub.subset=False"),
        ({"hub": HubConfig("a/b", None, None, {}, {}, {"nob": "False"})}, "s.hub.codes.nob=False"),
    ],
)
def test_a_boolean_of_yaml_where_text_is_due_is_to_be_quoted(changes: dict[str, Any], key: str) -> None:
    (line,) = faults(**changes)
    assert line.startswith(f"{key}: ") and "quotes" in line and "YAML" in line


@pytest.mark.parametrize(
    ("features", "facts"),
    [
        ({"language": "deu"}, ["s.features.language=deu", "eng", "leave"]),
        ({"domain": " "}, ["s.features.domain= ", "empty"]),
        ({"": "news"}, ["s.features.=news", "empty"]),
    ],
)
def test_a_feature_has_a_name_and_a_value_and_no_other_language(features: dict[str, str], facts: list[str]) -> None:
    (line,) = faults(features=features)
    assert all(fact in line for fact in facts), line


def test_each_example_has_a_task_and_a_language_that_need_not_be_named() -> None:
    source = source_config("csv", "eng", "x", features={"domain": "news"})
    assert source.features_of_examples("pos") == {"task": "pos", "language": "eng", "domain": "news"}
    source = source_config("csv", "eng", "x", features={"task": "ner", "language": "eng"})
    assert source.features_of_examples("instruct") == {"task": "ner", "language": "eng"}


def test_text_in_quotes_and_numbers_are_labels() -> None:
    assert faults(labels={"0": "no", "1": "True", "2": 3}, codes={"nob": "no"}) == []


@pytest.mark.parametrize("delimiter", [";", "\t", "\\t", "tab"])
def test_a_delimiter_is_one_character(delimiter: str) -> None:
    assert faults(delimiter=delimiter) == []
    assert faults(delimiter=delimiter + ";")[0].startswith("s.delimiter=")


def test_a_key_that_yaml_reads_as_a_boolean_is_to_be_quoted() -> None:
    for text in ("codes: {no: x}", "labels: {yes: x}", "where: {on: x}"):
        with pytest.raises(KeyValidationError) as refused:
            OmegaConf.merge(OmegaConf.structured(SourceConfig), OmegaConf.create(text))
        said = one_line(refused.value)
        assert said.startswith(text.partition(":")[0]) and "the key must be text" in said and "quotes" in said


def test_values_that_yaml_reads_as_booleans_are_found_after_composition() -> None:
    text = "codes: {nob: no}\nlabels: {a: yes}"
    config = OmegaConf.merge(OmegaConf.structured(source_config("csv", "eng", "x")), OmegaConf.create(text))
    first, second = faults(**{name: OmegaConf.to_container(config[name]) for name in ("codes", "labels")})
    assert first.startswith("s.codes.nob=False: ") and second.startswith("s.labels.a=True: ")


def test_rules_of_where_can_be_given_in_one_word_of_the_command_line(tmp_path: Path) -> None:
    words = ["experiment=language", "language=eng", f"data_dir={tmp_path}", "model.path=x"]
    rules = ["+data.sources.text.where.text.min_words=3", "+data.sources.text.where.label=[a,b]"]
    with hydra_ready():
        source = checked(compose([*words, *rules])).data.sources["text"]
        braces = checked(compose([*words, "+data.sources.text.where={label: {not: -1}}"])).data.sources["text"]
    assert source.where == {"text": {"min_words": 3}, "label": ["a", "b"]}
    assert braces.where == {"label": {"not": -1}}
