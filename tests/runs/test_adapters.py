"""MAD-X and MAD-G from the command line: language modules, a task on top, targets with their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs.conftest import Ended
from xlt.modules import load_module

RECIPE = ["train.max_steps=3", "train.evaluate_every_steps=3", "train.batch_size=4", "train.precision=fp32"]
LANGUAGE = [*RECIPE, "task.max_length=40", "train.learning_rate=1e-2"]


def _list(words: list[str]) -> str:
    return "[" + ",".join(f"'{word}'" for word in words) + "]"


@pytest.fixture
def words(data_dir: Path, tiny_bert: Path, tmp_path: Path) -> list[str]:
    """Tagging from English to North Sami and Erzya."""
    kept = ("eng", "sme", "myv")
    others = [f"~data.evaluation.{language}" for language in ("glv", "bam", "fao")]
    return [
        "experiment=pos",
        *others,
        *(f"data.evaluation.{language}.cap=4" for language in kept),
        *RECIPE,
        "task.max_length=40",
        f"data_dir={data_dir}",
        f"model.path={tiny_bert}",
        f"output_dir={tmp_path / 'outputs'}",
        "device=cpu",
        "threads=1",
        "tracker=silent",
    ]


def _evaluations(outputs: Path) -> list[dict[str, Any]]:
    (file,) = (outputs / "runs").glob("*/evaluation.json")
    return list(json.loads(file.read_text()).values())


def _modules(outputs: Path) -> list[Any]:
    return [load_module(file) for file in sorted((outputs / "runs").glob("*/module.safetensors"))]


def test_mad_x_trains_a_language_adapter_for_each_and_a_task_adapter(
    command: Callable[..., Ended], words: list[str], tmp_path: Path
) -> None:
    ended = command(*words, "method=mad_x", f"language_modules.overrides={_list(LANGUAGE)}")
    assert ended.code == 0, ended.lines
    modules = _modules(tmp_path / "outputs")
    assert {module.header.language for module in modules} == {"eng", "sme", "myv", None}
    for module in modules:
        assert module.kind == "adapter" and len(module.adapters) == 1  # of two blocks, the last has none
        assert (module.invertible is not None) == (module.header.language is not None)
        (adapter,) = module.adapters.values()
        assert adapter.down.out_features == (16 if module.header.language is not None else 2)  # of 32
    found = {(record["source"], record["composition"]) for record in _evaluations(tmp_path / "outputs")}
    assert found == {(source, label) for source in ("eng", "sme", "myv") for label in ("task", "task+language")}


def test_one_generator_serves_languages_that_it_never_saw(
    command: Callable[..., Ended], words: list[str], tmp_path: Path
) -> None:
    texts = ["data=text", *(f"+source@data.sources.{language}=mono" for language in ("eng", "fao"))]
    texts += [f"data.sources.{language}.language={language}" for language in ("eng", "fao")]
    generator = _list([*texts, *LANGUAGE, "method.typology=null"])
    made = ["method=mad_g", "method.typology=null", "language_modules=mad_g"]
    made.append(f"language_modules.generator.overrides={generator}")
    ended = command(*words, *made)
    assert ended.code == 0, ended.lines
    modules = {module.kind: module for module in _modules(tmp_path / "outputs")}
    assert set(modules) == {"generator", "adapter"} and len(_modules(tmp_path / "outputs")) == 2
    assert modules["adapter"].header.method == "mad_g" and modules["adapter"].invertible is None
    assert modules["generator"].for_language("sme").header.language == "sme"
    found = {(record["source"], record["composition"]) for record in _evaluations(tmp_path / "outputs")}
    assert found == {(source, label) for source in ("eng", "sme", "myv") for label in ("task", "task+language")}

    # MAD-G-en: English stands in for all targets; nothing is trained again.
    again = command(*words, *made, "+language_modules.stand_in.targets=eng")
    assert again.code == 0, again.lines
    assert len(_modules(tmp_path / "outputs")) == 2
    assert len(_evaluations(tmp_path / "outputs")) == 6 + 2


def test_a_language_without_a_vector_is_refused_before_training(
    command: Callable[..., Ended], words: list[str], tmp_path: Path
) -> None:
    texts = [f"+source@data.sources.{language}=mono" for language in ("eng", "fao")]
    texts += [f"data.sources.{language}.language={language}" for language in ("eng", "fao")]
    generator = _list([*LANGUAGE, "data=text", *texts, "method.typology=null"])
    ended = command(
        *words, "method=mad_g", "method.typology=null", "language_modules=mad_g",
        f"language_modules.generator.overrides={generator}", "data.evaluation.sme.language=nah",
    )  # fmt: skip
    assert ended.code == 2
    assert any(line.startswith("xlt: language=nah: urielplus has no vector of Nahuatl") for line in ended.lines)
    assert not list((tmp_path / "outputs").glob("runs/*/module.safetensors"))


def test_task_modules_of_two_seeds_that_share_a_start_are_averaged(
    command: Callable[..., Ended], words: list[str], tmp_path: Path
) -> None:
    """The start is named on the command line, and both seeds use the one run."""
    one = [*words, "method=mad_x", "language_modules=none", "~data.evaluation.sme", "~data.evaluation.myv"]
    child = ["method=mad_x", "language_modules=none", *RECIPE, "task.max_length=40", "seed=7", "~data.evaluation"]
    start = ["start=run", "start.run.experiment=pos", f"start.run.overrides={_list(child)}"]
    average = ["+evaluation.runs.two=['seed=2']", "+composition@compositions.mean=average"]
    ended = command(*one, *start, *average, "compositions.mean.of=[task,two]", "seed=1")
    assert ended.code == 0, ended.lines
    files = sorted((tmp_path / "outputs" / "runs").glob("*/module.safetensors"))
    headers = {file: load_module(file).header for file in files}
    begun = {file: header.provenance["depends_on"].get("start") for file, header in headers.items()}
    (first,) = (file for file, start_of in begun.items() if start_of is None)
    two = [file for file in files if file != first]
    assert len(two) == 2 and all(str(begun[file]).startswith(first.parent.name) for file in two)
    assert any(record["composition"].startswith("average") for file in two for record in _records(file.parent))
    from xlt.commands.merge import main

    main(["average", *map(str, two), "--output", str(tmp_path / "mean.safetensors")])
    mean, *parts = (load_module(path).to_tensors(None)[1] for path in (tmp_path / "mean.safetensors", *two))
    heads = [name for name in mean if "head." in name]
    assert heads and all((mean[n] - (parts[0][n] + parts[1][n]) / 2).abs().max() < 1e-6 for n in heads)
    alone = command(*one, *average, "compositions.mean.of=[task,two]", "seed=1")
    assert alone.code == 2 and "start=run" in alone.lines[0]


def _records(folder: Path) -> list[dict[str, Any]]:
    file = folder / "evaluation.json"
    return list(json.loads(file.read_text()).values()) if file.exists() else []
