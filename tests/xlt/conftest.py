"""Plans of tiny runs: a tiny model, two treebanks, two texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xlt.compose import compose, hydra_ready
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore

# A recipe that has nothing by method: with LT-SFT the dense phase is as long as the other.
RECIPE = ("recipe=nano_distil", "train.max_steps=2", "train.evaluate_every_steps=1", "train.batch_size=4")
LANGUAGE_RECIPE = (
    "task.max_length=40",
    "train.precision=fp32",
    *RECIPE,
)
TAGGING = (
    "task.max_length=40",
    "tracker=silent",
    "device=cpu",
    "threads=1",
    "+source@data.sources.eng=ud_eng",
    "+source@data.validation.eng=ud_eng",
    "data.validation.eng.split=dev",
    "+source@data.evaluation.eng=ud_eng",
    "data.evaluation.eng.split=test",
    "+source@data.evaluation.fao=ud_fao",
    "data.evaluation.fao.split=test",
    "train.precision=fp32",
    *RECIPE,
)


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with hydra_ready():
        yield


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with treebanks and text of English and Faroese."""
    folder = tmp_path_factory.mktemp("shelf")
    for language, treebank in (("eng", "UD_English-EWT"), ("fao", "UD_Faroese-FarPaHC")):
        (folder / "ud" / treebank).mkdir(parents=True)
        for split in ("train", "dev", "test"):
            rows = [
                "".join(f"{i}\t{word}\t_\t{tag}\t_\t_\t0\t_\t_\t_\n" for i, word, tag in sentence)
                for sentence in ([(1, f"{language}{n}{split}", "NOUN"), (2, "sat", "VERB")] for n in range(8))
            ]
            (folder / "ud" / treebank / f"x-ud-{split}.conllu").write_text("\n".join(rows), encoding="utf-8")
    (folder / "mono").mkdir()
    for code in ("en", "fo"):
        lines = "".join(f"the {code} cat sat {number}\n" for number in range(20))
        (folder / "mono" / f"{code}.txt").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture
def words(shelf: Path, tiny_bert: Path) -> tuple[str, ...]:
    """Overrides of a tagging run without language modules."""
    return (*TAGGING, f"data_dir={shelf}", f"model.path={tiny_bert}")


@pytest.fixture
def adapted(words: tuple[str, ...]) -> tuple[str, ...]:
    """The same with language modules, trained from text."""
    listed = ",".join(f"'{word}'" for word in LANGUAGE_RECIPE)
    return (*words, "language_modules=mono", f"language_modules.overrides=[{listed}]")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(RunStore(tmp_path / "outputs"))


@pytest.fixture
def planned(plan: Plan, tmp_path: Path) -> Callable[..., Run]:
    """`planned(*overrides)`: the run in `plan`; its store is in the test's folder."""
    return lambda *overrides: plan.add(compose([*overrides, f"output_dir={tmp_path / 'outputs'}"]))
