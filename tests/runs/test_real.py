"""Real data and a real encoder, where they are: XLT_DATA_DIR (treebanks and text), XLT_MODEL_PATH (a local encoder)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from xlt.compose import checked, compose, hydra_ready
from xlt.data.encoding import Encoder
from xlt.data.sources import read_source
from xlt.engine.build import build_task
from xlt.models.loading import load_tokenizer
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def data() -> str:
    folder = os.environ.get("XLT_DATA_DIR")
    if not folder:
        pytest.skip("XLT_DATA_DIR is not set: a folder with ud/UD_English-EWT, mono/en.txt, ...")
    return str(Path(folder).resolve())


@pytest.fixture(scope="module")
def model() -> str:
    folder = os.environ.get("XLT_MODEL_PATH")
    if not folder:
        pytest.skip("XLT_MODEL_PATH is not set: the folder of a pre-trained encoder")
    return str(Path(folder).resolve())


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with hydra_ready():
        yield


def test_the_real_experiment_is_planned_and_its_data_read(data: str, model: str, tmp_path: Path) -> None:
    plan = Plan(RunStore(tmp_path))
    run = plan.add(compose(["experiment=pos", f"data_dir={data}", f"model.path={model}"]))
    plan.preflight()
    assert len(plan.runs) == 7  # six language modules, one task module
    assert len(run.evaluations) == 12


def test_every_treebank_of_conf_that_is_there_can_be_read_tagged_and_cut(data: str, model: str) -> None:
    encoder = Encoder(load_tokenizer(model))
    names = [name for name in _options() if name.startswith("ud_") and name != "ud_newest"]  # of any language
    words = [f"+source@data.sources.{name}={name}" for name in names]
    config = checked(compose([*words, "task=pos", f"data_dir={data}", f"model.path={model}"]))
    task = build_task(config.task)
    read = 0
    for name, planned in config.data.sources.items():
        for split in ("train", "dev", "test"):
            source = dataclasses.replace(planned, split=split)
            folder = source.location()
            if not [*folder.glob(f"*-ud-{split}.conllu"), *folder.glob(f"{split}.conllu")]:
                continue
            examples = list(islice(read_source(name, source, seed=1), 200))
            task.check(examples, name)
            windows = task.features(examples, encoder)
            tagged = sum(label != -100 for window in windows for label in window["labels"])
            assert tagged == sum(len(example.words or ()) for example in examples)
            read += 1
    assert read > 5


def _options() -> list[str]:
    import xlt_conf

    return sorted(file.stem for file in (Path(str(xlt_conf.__file__)).parent / "source").glob("*.yaml"))
