"""Every pre-trained model of conf/model says where it is, under which licence, and of which languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import xlt_conf
from omegaconf import OmegaConf

from xlt.config.model import ModelConfig

FOLDER = Path(str(xlt_conf.__file__)).parent / "model"
OLDER = {"distilmbert", "llama2_7b", "llama2_13b", "mbert", "mdeberta", "minilm_v2", "xlm_r", "xlm_r_large"}
OLDER |= {"nllb_600m", "nllb_1_3b", "nllb_3_3b"}  # named in the thesis, which says of which languages they are
NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml") if OmegaConf.load(file).get("path"))
REQUESTED = {"mmbert_small", "mmbert_base", "glot500", "afro_xlmr", "eurobert", "xmod", "xlm_v", "qwen3", "gemma3"}
REQUESTED |= {"smollm3", "apertus", "goldfish"}


def test_the_models_of_today_are_there() -> None:
    assert set(NAMES) - OLDER >= REQUESTED


@pytest.mark.parametrize("name", sorted(set(NAMES) - OLDER))
def test_a_comment_names_licence_and_languages(name: str) -> None:
    file = FOLDER / f"{name}.yaml"
    comment = " ".join(line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line[0] == "#")
    assert re.search(r"Licence: (MIT|Apache-2\.0|the \w+ terms of use)", comment), comment
    assert re.search(r"\d languages|Languages: \w+, \w+", comment), comment


@pytest.mark.parametrize("name", NAMES)
def test_the_path_is_an_id_of_the_hub(name: str) -> None:
    path = str(OmegaConf.load(FOLDER / f"{name}.yaml").path)
    assert re.fullmatch(r"([\w-]+/)?[\w.-]+", path)
    assert ModelConfig._path_fault(path) is None
