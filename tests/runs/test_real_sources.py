"""Every data set of conf/source that a folder of real data (XLT_DATA_DIR) has: read to the end and counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf, SCMode

from xlt.compose import compose, hydra_ready
from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.sources import read_source

pytestmark = pytest.mark.real

# Source, language -> examples of train, dev and test (0: no such split), as the publishers count them.
COUNTS = {
    ("ud", "eng"): (12544, 2001, 2077),
    ("ud", "fao"): (1020, 300, 301),
    ("ud", "bam"): (0, 0, 1026),
    ("masakhaner", "amh"): (1750, 250, 500),
    ("masakhaner", "hau"): (1912, 276, 552),
    ("masakhaner", "ibo"): (2235, 320, 638),
    ("masakhaner", "kin"): (2116, 302, 605),
    ("masakhaner", "lug"): (1428, 200, 407),
    ("masakhaner", "pcm"): (2124, 306, 600),
    ("masakhaner", "swa"): (2109, 300, 604),
    ("masakhaner", "yor"): (2171, 305, 645),
    ("masakhaner2", "bam"): (4462, 638, 1274),
    ("masakhaner2", "ewe"): (3505, 501, 1001),
    ("masakhaner2", "zul"): (5848, 836, 1670),
    ("americasnli", "aym"): (0, 743, 750),
    ("americasnli", "grn"): (0, 743, 750),
    ("americasnli", "nah"): (0, 585, 738),
    ("americasnli", "oto"): (0, 222, 748),
    ("smsa", "ind"): (11000, 1260, 500),
    ("nusax_senti", "ace"): (500, 100, 400),
    ("nusax_senti", "nij"): (500, 100, 400),
    ("nusax_mt", "min"): (500, 100, 400),
    ("nusax_mt", "sun"): (500, 100, 400),
    ("squad", "eng"): (8128, 1252, 0),
    ("xquad", "ara"): (1190, 0, 1190),
    ("xquad", "zho"): (1190, 0, 1190),
    ("americasnlp2021", "shp"): (14592, 994, 1003),  # 996 lines of dev, two without a translation
    ("americasnlp2021", "nah"): (5967, 671, 995),  # 6000, 672 and 1003 lines, the others without one
}
LABELS = {
    "americasnli": {"entailment", "neutral", "contradiction"},
    "smsa": {"positive", "neutral", "negative"},
    "nusax_senti": {"positive", "neutral", "negative"},
}
ENTITIES = {"O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"}


@pytest.fixture(scope="module")
def composed() -> Iterator[DictConfig]:
    folder = os.environ.get("XLT_DATA_DIR")
    if not folder:
        pytest.skip("XLT_DATA_DIR is not set: a folder with masakhaner/hau, smsa, xquad, ...")
    words = [f"+source@data.sources.{name}={name}" for name in sorted({name for name, _ in COUNTS})]
    with hydra_ready():
        yield compose([*words, f"data_dir={Path(folder).resolve()}"])


def _source(composed: DictConfig, name: str, language: str, split: str) -> SourceConfig:
    config = composed.copy()
    config.data.sources[name].language = language
    config.data.sources[name].split = split
    source = OmegaConf.to_container(config.data.sources[name], resolve=True, structured_config_mode=SCMode.INSTANTIATE)
    assert isinstance(source, SourceConfig)
    return source


def _read(composed: DictConfig, name: str, language: str, split: str) -> list[Example]:
    return list(read_source(name, _source(composed, name, language, split), seed=1))


@pytest.mark.parametrize(("name", "language"), COUNTS)
def test_every_split_has_the_examples_its_publisher_counts(name: str, language: str, composed: DictConfig) -> None:
    for split, count in zip(("train", "dev", "test"), COUNTS[name, language], strict=True):
        if count:
            examples = _read(composed, name, language, split)
            assert len(examples) == count
            assert len({example.place for example in examples}) == count
            assert {example.label for example in examples} <= LABELS.get(name, {None})
            assert {tag for example in examples for tag in example.columns.get("ner", ())} <= ENTITIES


def test_entities_are_those_of_the_files_without_dates(composed: DictConfig) -> None:
    tags = Counter(tag for example in _read(composed, "masakhaner", "hau", "test") for tag in example.columns["ner"])
    assert (tags["B-PER"], tags["B-ORG"], tags["B-LOC"]) == (340, 132, 512)
    assert sum(tags.values()) == 16841


def test_words_keep_every_character_but_ascii_blanks(composed: DictConfig) -> None:
    words = [word for example in _read(composed, "masakhaner", "amh", "train") for word in example.words or ()]
    assert len(words) == 25819
    assert all(word and not {" ", "\t", "\r", "\n"} & set(word) for word in words)
