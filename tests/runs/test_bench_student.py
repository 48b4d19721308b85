"""`scripts/bench_student.py` on a tiny table: a whole model, a student of it, and one that is not trained."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.runs.test_bistil import STAGE_1, TINY, _list
from xlt.commands.reproduce import reproduce

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_student.py"
EXAMPLES = 4


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("bench_student", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        patch.setitem(sys.modules, spec.name, script)  # its dataclasses look their module up
        spec.loader.exec_module(script)
        yield script


@pytest.fixture(scope="module")
def words(data_dir: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The table, with its whole model and one student trained."""
    student = ["student=bistil_st", "target={column}", "model.student.layer_reduction=2"]
    student.append(f"model.student.run.overrides={_list([*STAGE_1, 'language_modules=none'], chr(34))}")
    given = [
        "table=bistil",
        "table.headings=[POS]",
        "table.parts.POS.columns=[fao]",
        f"table.parts.POS.systems.bistil_st_2.overrides={_list(student)}",
        *(f"~table.parts.POS.systems.{name}" for name in ("scratch_2", "bistil_st_3", "bistil_tf_3")),
        f"output_dir={tmp_path_factory.mktemp('students') / 'outputs'}",
        f"data_dir={data_dir}",
        f"model.path={tiny_bert}",
        "tracker=silent",
        "threads=1",
        "launcher.workers=1",
        *TINY,
        f"language_modules.overrides={_list(TINY)}",
        "+source@data.evaluation.fao=ud_fao",
        "data.evaluation.fao.split=test",
    ]
    assert reproduce([*given, "~table.parts.POS.systems.bistil_tf_2"]) == 0
    return given


@pytest.fixture(scope="module")
def plans(script: Any, words: list[str]) -> tuple[Any, Any]:
    """The table's systems, and facts about it."""
    return script.plan_systems(words, None, None)


@pytest.fixture
def call(
    script: Any, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str], list[str]]]:
    """`call("--reference", "bistil_tf_2")`: exit code, and the lines that it printed and complained."""

    def call(*more: object) -> tuple[int, list[str], list[str]]:
        monkeypatch.setattr(sys, "argv", ["bench_student.py", *words, *map(str, more), "--examples", str(EXAMPLES)])
        capsys.readouterr()
        code: object = 0
        try:
            script.main()
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        assert isinstance(code, int)
        return code, said.out.splitlines(), said.err.splitlines()

    return call


@pytest.mark.slow
def test_trained_systems_are_measured_and_others_named(
    call: Callable[..., Any], words: list[str], tmp_path: Path
) -> None:
    code, out, err = call("--rounds", 2, "--output", tmp_path / "student.json")
    assert (code, err) == (0, [])
    assert [line.split(":")[0] for line in out if "left out" in line] == ["bistil_tf_2 left out, not trained yet"]
    assert all(len(line) <= 80 or "left out" in line for line in out)
    record = json.loads((tmp_path / "student.json").read_text(encoding="utf-8"))
    assert (list(record["systems"]), list(record["left_out"])) == (["lt_sft", "bistil_st_2"], ["bistil_tf_2"])
    whole, student = record["systems"].values()
    assert (whole["layers"], student["layers"]) == (2, 1)
    assert student["tokens"] < whole["tokens"] and student["parameters"] < whole["parameters"]
    assert student["tokens_per_example"] == whole["tokens_per_example"]
    assert student["ratios"]["body_flops"] == 0.5 < student["ratios"]["flops"]
    assert len(student["cpu"]["seconds"]) == len(student["cpu"]["ratios"]) == 2
    assert whole["ratios"]["cpu"] == 1
    (folder,) = (Path(word.partition("=")[2]) / "runs" for word in words if word.startswith("output_dir="))
    for system in (whole, student):
        done = json.loads((folder / system["run"][:12] / "evaluation.json").read_text(encoding="utf-8")).values()
        label = "task+language" if system is whole else "task"
        scores = [one["metrics"] for one in done if (one["source"], one["composition"]) == ("fao", label)]
        assert [system["score"]] == [score["accuracy"] for score in scores]


def test_flops_are_those_of_every_matrix_product_attention_included(script: Any, plans: tuple[Any, Any]) -> None:
    """With n tokens, width h, feed-forward width i: 2 n (4 h^2 + 2 h i) of weights and 4 n^2 h of attention a layer."""
    whole = plans[0]["lt_sft"]
    system = script.load(whole)
    (example,) = script.examples_of(whole, 1, system.task)
    (row,) = system.task.features([example], system.encoder)
    n, h, i, words, labels = len(row["input_ids"]), 32, 64, 3, 17
    body = 2 * (2 * n * (4 * h * h + 2 * h * i) + 4 * n * n * h)
    counted = script.count_flops(system, system.collate([[row]]))
    assert counted == {"body_flops": body, "flops": body + 2 * words * h * labels}


def test_batches_on_a_gpu_hold_the_same_examples_for_all(
    script: Any, plans: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The CPU stands in for the GPU."""
    by_name, about = plans
    systems = {name: script.load(by_name[name]) for name in ("lt_sft", "bistil_st_2")}
    examples = script.examples_of(by_name["lt_sft"], EXAMPLES, systems["lt_sft"].task)
    seen: dict[str, list[list[str]]] = {name: [] for name in systems}
    for name, system in systems.items():
        system.task.score = _watched(system, seen[name])
    measured = script.measure(systems, "lt_sft", examples, 3, 1, "fp32", torch.device("cpu"))
    assert seen["lt_sft"] == seen["bistil_st_2"]
    assert [len(batch) for batch in seen["bistil_st_2"]] == [1] * 3 * EXAMPLES + [3, 1] * 2  # counted, warmed up, timed
    assert all(system["gpu"]["examples_per_second"] > 0 for system in measured.values())
    for system in measured.values():
        system |= {"label": "BiStil-TF, lrf = 2", "score": 100.0}
        for device in ("cpu", "gpu"):
            system[device] |= {"examples_per_second": 12345.6, "ratios": [10.25, 10.75]}
    record = {**about, "systems": measured, "devices": {"cpu": "c", "gpu": "g"}, "examples": EXAMPLES, "batch": 3}
    script.show(record | {"threads": 1, "torch": "2", "precision": "fp32"}, Console(width=80))
    shown = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("BiStil-TF, lrf = 2 ") for line in shown) == 3 * len(measured)  # none is cut in two
    assert not any("…" in line for line in shown)


def _watched(system: Any, told: list[list[str]]) -> Callable[..., Any]:
    """The task's scoring, which also writes down the texts that it is given."""
    score = system.task.score

    def watched(model: Any, batch: Any, rows: Any) -> Any:
        told.append(sorted(system.encoder.tokenizer.decode(row["input_ids"]) for row in rows))
        return score(model, batch, rows)

    return watched


def test_a_reference_that_is_not_trained_is_refused_in_one_line(call: Callable[..., Any]) -> None:
    code, out, (line,) = call("--reference", "bistil_tf_2")
    assert (code, out) == (2, [])
    assert all(fact in line for fact in ("xlt: bistil_tf_2", "not trained yet: bistil pretrain eng,fao", "--reference"))


@pytest.mark.parametrize(
    ("more", "facts"),
    [
        (["--reference", "x"], ["--reference x", "table=bistil", "lt_sft, bistil_st_2, bistil_tf_2"]),
        (["--column", "x"], ["--column x", "table=bistil", "fao"]),
        (["--rounds", "0"], ["--rounds", "0", "1 or more"]),
        (["stray"], ["stray", "KEY=VALUE"]),
    ],
)
def test_wrong_words_are_refused_in_one_line(call: Callable[..., Any], more: list[str], facts: list[str]) -> None:
    code, out, (line,) = call(*more)
    assert (code, out) == (2, []) and all(fact in line for fact in facts)


def test_the_thesis_ratios_stand_in_the_table_that_the_script_measures(script: Any) -> None:
    assert script.published("pos") == []
    assert script.published("nli") == [
        "thesis Table 5.7, nli: bistil_2    cpu 2.02x  gpu 1.97x  flops 0.50x",
        "thesis Table 5.7, nli: bistil_3    cpu 2.89x  gpu 2.85x  flops 0.33x",
    ]
