"""The whole way at the smallest size: encoder, language modules, two systems, a table; then nothing is left to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xlt.reproduce import reproduce

TINY = [
    "train.max_steps=4",
    "train.dense_max_steps=2",
    "train.evaluate_every_steps=2",
    "train.batch_size=8",
    "threads=1",
]
MODEL = [
    *TINY,
    "model.random.layers=1",
    "model.random.hidden_size=32",
    "model.random.heads=2",
    "model.random.intermediate_size=64",
    "model.random.vocabulary=400",
    "data.held_out_fraction=0.1",
]
LANGUAGE = [*TINY, "data.sources.text.cap=30"]
KEPT = {"eng", "fao"}


def _list(words: list[str]) -> str:
    return "[" + ",".join(f"'{word}'" for word in words) + "]"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words of a table of LT-SFT with and without language modules, on English and Faroese."""
    from xlt.compose import compose, hydra_ready

    with hydra_ready():
        evaluation = set(compose(["experiment=nano_fields"]).data.evaluation)
        seen = list(compose(["experiment=nano_pretrain"]).data.sources)
    model = [
        *MODEL,
        *(f"data.sources.{name}.cap=20" for name in seen[:8]),
        *(f"~data.sources.{name}" for name in seen[8:]),
    ]
    out = tmp_path_factory.mktemp("nano") / "outputs"
    return [
        "table=quickstart",
        "seeds=[1]",
        "launcher.workers=1",
        f"output_dir={out}",
        "~table.systems.full",
        "~table.systems.bitfit",
        "~table.systems.random_sft",
        "~table.systems.mad_x",
        "table.columns=[eng,fao]",
        "table.average=[fao]",
        *TINY,
        f"model.run.overrides={_list(model)}",
        f"language_modules.overrides={_list(LANGUAGE)}",
        *(f"~data.evaluation.{name}" for name in sorted(evaluation - KEPT)),
        *(f"data.evaluation.{name}.cap=10" for name in sorted(KEPT)),
        "data.sources.eng.cap=30",
        "data.validation.eng.cap=10",
    ]


def test_a_table_is_made_from_nothing_and_a_second_call_does_nothing(
    table: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reproduce(table) == 0
    said = capsys.readouterr()
    assert "LT-SFT TA-only" in said.out and "hole" not in said.out
    # the encoder, two language modules, one task module; the two systems share all of them
    assert "4 runs: 0 exist, 4 to do" in said.err
    out = Path(next(word for word in table if word.startswith("output_dir=")).partition("=")[2])
    saved = json.loads((out / "tables" / "quickstart.json").read_text(encoding="utf-8"))
    assert set(saved["cells"]) == {"lt_sft", "lt_sft_ta"}
    for row in saved["cells"].values():
        for column in ("eng", "fao", "avg"):
            assert len(row[column]["values"]) == 1 and row[column]["missing"] is None
            (run,) = row[column]["runs"]
            manifest = json.loads((out / "runs" / run[:12] / "manifest.json").read_text(encoding="utf-8"))
            assert set(manifest["depends_on"]) == {"model", "eng"}
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")}

    monkeypatch.setattr("xlt.results.execution._do", None)  # whoever calls it fails
    assert reproduce(table) == 0
    again = capsys.readouterr()
    assert again.out == said.out
    assert "nothing to do" in again.err
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")} == before


def test_the_plan_of_a_table_is_shown_without_doing_anything(
    table: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [word for word in table if not word.startswith("output_dir=")]
    assert reproduce([*words, f"output_dir={tmp_path / 'elsewhere'}", "--plan"]) == 0
    assert "4 runs: 0 exist, 4 to do" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()
