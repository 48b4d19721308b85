"""A config that is written as JSON values and read again is the same in every node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Optional

import pytest
from omegaconf import DictConfig, OmegaConf

from xlt.compose import checked, hydra_ready
from xlt.compose.composing import composed
from xlt.compose.written_configs import CannotBeWrittenError, read_again, written


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with hydra_ready():
        yield


def again(config: DictConfig) -> DictConfig:
    return read_again(json.loads(json.dumps(written(config))))


@pytest.mark.parametrize(
    "words", ["experiment=pos method=mad_g", "experiment=nano_joint method=flix", "experiment=nano_fields method=lora"]
)
def test_a_run_is_the_same_with_its_schemas_flags_and_interpolations(words: str) -> None:
    config = composed("config", words.split())
    copy = again(config)
    assert OmegaConf.to_yaml(copy) == OmegaConf.to_yaml(config) and "${" in OmegaConf.to_yaml(copy)
    for one in (config, copy):
        one.model.path, one.model.run, one.data_dir, one.target = "x", None, "/", "fao"
        one.language = "eng"
    assert repr(checked(copy)) == repr(checked(config))
    with pytest.raises(Exception, match="no_such_key"):  # the root is closed, and values have types
        copy.no_such_key = 1
    with pytest.raises(Exception, match="converted"):
        copy.seed = "no number"


def test_a_copy_shares_nothing_with_another() -> None:
    value = written(composed("config", ["experiment=pos"]))
    one, other = read_again(value), read_again(value)
    one.choices.method = "another"
    one._set_flag("readonly", True)
    assert other.choices.method != "another" and not other._get_flag("readonly")
    other.seed = 5
    assert read_again(value).seed == 1


def test_a_type_may_be_written_in_either_way_of_python() -> None:
    for kind in (Optional[str], str | None):  # noqa: UP045
        config = OmegaConf.create({"a": {"b": "c"}})
        config.a._metadata.element_type = kind
        assert again(config).a._metadata.element_type == kind


@pytest.mark.parametrize("value", [{"a": b"bytes"}, {1: "a key that is no text"}, {"a": float("nan")}])
def test_what_json_cannot_hold_is_refused(value: dict[object, object]) -> None:
    with pytest.raises(CannotBeWrittenError):
        written(OmegaConf.create(value))


@pytest.mark.parametrize("name", ["os:system", "xlt.files:write_json", "xlt.no.such:Schema", "subprocess:Popen"])
def test_a_name_stands_for_a_schema_of_xlt_and_nothing_else(name: str) -> None:
    value = written(OmegaConf.create({"a": 1}))
    value["kinds"][0][2] = name
    with pytest.raises(CannotBeWrittenError):
        read_again(value)


@pytest.mark.parametrize(
    "value", [None, [], {}, {"kinds": [], "root": [0, {}]}, {"kinds": [["StringNode"]], "root": [0, 1]}]
)
def test_other_values_are_no_config(value: object) -> None:
    with pytest.raises(CannotBeWrittenError):
        read_again(value)
