"""What runs leave for those who watch: W&B's offline runs, written by its real client, and a table's page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runs.conftest import Ended
from tests.runs.translation_words import sentiment, translate_train
from tests.translators import write_shelf
from xlt.commands.dashboard import workspace_of
from xlt.commands.reproduce import reproduce
from xlt.compose import hydra_ready
from xlt.tables.request import request_table
from xlt.tracking.wandb import WandbRun
from xlt.tracking.wandb_file import records

pytest.importorskip("wandb")


def _records(folder: Path, kind: str) -> list[Any]:
    """What W&B keeps of a run, over all sittings."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    found = (record for file in files for record in records(file))
    return [getattr(record, kind) for record in found if record.WhichOneof("record_type") == kind]


def _steps(folder: Path) -> Iterator[tuple[int, str, int]]:
    """Row, phase and step of W&B's history, of rows that belong to a phase."""
    for row in _records(folder, "history"):
        items = {"/".join(item.nested_key) or item.key: item.value_json for item in row.item}
        yield from ((row.step.num, n.partition("/")[0], int(v)) for n, v in items.items() if n.endswith("/step"))


@pytest.fixture(scope="module")
def tracked(
    nano_table: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], Path]:
    """A table whose runs went to W&B offline: its words, and its output folder."""
    out = tmp_path_factory.mktemp("tracked") / "outputs"
    words = [*nano_table(out), "tracker.wandb=offline"]
    assert reproduce(words) == 0
    return words, out


def test_every_run_of_a_table_is_in_its_group_with_all_that_its_metrics_file_has(
    tracked: tuple[list[str], Path],
) -> None:
    jobs = {}
    for folder in (tracked[1] / "runs").iterdir():
        if folder.name == ".locks":
            continue
        said = _records(folder, "run")
        assert {(run.run_group.partition("-")[0], run.run_id[:12]) for run in said} == {("quickstart", folder.name)}
        jobs[folder.name] = said[0].job_type
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert list(_steps(folder)) == [(row, line["phase"], line["step"]) for row, line in enumerate(lines)]
        assert {ended.exit_code for ended in _records(folder, "exit")} == {0}
    assert sorted(jobs.values()) == ["base model", "language module", "language module", "task module"]


def test_a_bar_for_each_system_of_the_table_though_they_share_a_method_and_runs(
    tracked: tuple[list[str], Path], nano_table: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    names: dict[str, list[str]] = {}
    out = tmp_path / "outputs"
    shutil.copytree(tracked[1], out)
    words = [word for word in nano_table(out) if word != "~table.parts.fields.systems.random_sft"]
    words += [
        "tracker.wandb=offline",
        "table.parts.fields.systems.lt_sft.label=Sparse",
        "table.parts.fields.systems.random_sft.label=Twice",
    ]
    words += ["table.parts.fields.systems.random_sft.overrides=['method=lt_sft','data.sources.eng.upsample=2']"]
    assert reproduce(words) == 0
    with hydra_ready():
        table = request_table(words).name
    for folder in (file.parent for file in out.glob("runs/*/manifest.json")):
        said = _records(folder, "run")[-1]
        assert f"table:{table}" in said.tags
        (systems,) = (json.loads(item.value_json) for item in said.config.update if item.key == "systems")
        names.setdefault(said.job_type, []).append(systems[table])
    assert sorted(names.pop("task module")) == ["Sparse, LT-SFT TA-only", "Twice"]
    assert names == {"base model": ["base model, pretrain"], "language module": ["language module, lt_sft"] * 2}


def test_lineage_and_scores_of_a_composed_evaluation_are_those_of_the_store(tracked: tuple[list[str], Path]) -> None:
    (folder,) = (file.parent for file in (tracked[1] / "runs").glob("*/evaluation.json"))
    manifest = json.loads((folder / "manifest.json").read_text())
    artifacts = {artifact.name: artifact for artifact in _records(folder, "artifact") if artifact.type == "module"}
    used = {name.removeprefix("module-") for name, artifact in artifacts.items() if artifact.use_after_commit}
    bases = {fingerprint[:12] for fingerprint in manifest["depends_on"].values()}
    others = {path.name for path in folder.parent.iterdir() if path.name != ".locks"} - {folder.name}
    assert used == others and bases < used  # Faroese's module is used by the evaluation alone
    assert json.loads(artifacts[f"module-{folder.name}"].metadata)["commit"] == manifest["commit"]
    (table,) = folder.glob("wandb/offline-run-*/files/media/table/*.json")
    rows = {(row[0], row[2]): row for row in json.loads(table.read_text())["data"]}
    columns = json.loads(table.read_text())["columns"]
    for record in json.loads((folder / "evaluation.json").read_text()).values():
        row = dict(zip(columns, rows[record["source"], record["composition"]], strict=True))
        assert {name: row[name] for name in record["metrics"]} == record["metrics"]
        assert row["modules"].count(" + ") == (record["composition"] == "task+language")


def test_the_tables_workspace_asks_for_nothing_that_its_runs_did_not_send(tracked: tuple[list[str], Path]) -> None:
    sent = set()
    for folder in (tracked[1] / "runs").iterdir():
        for kind in ("history", "summary"):
            for record in _records(folder, kind):
                items = record.item if kind == "history" else record.update
                sent |= {"/".join(item.nested_key) or item.key for item in items}
    workspace = workspace_of(tracked[0])
    panels = [panel for section in workspace.sections.values() for panel in section]
    asked = {name for panel in panels for name in (*panel.metrics, panel.x) if name is not None} - {"evaluation"}
    assert len(asked) > 8 and asked <= sent
    assert {column.removeprefix("summary:") for column in workspace.columns} <= sent
    assert any(name.startswith("evaluation/") and "_type" in name for name in sent)  # the table


def test_a_page_of_the_table_lies_beside_it_and_leads_to_its_runs(tracked: tuple[list[str], Path]) -> None:
    (page,) = (tracked[1] / "tables").glob("quickstart-*.html")
    text = page.read_text(encoding="utf-8")
    links = [(page.parent / link).resolve() for link in re.findall(r'href="(\.\./runs/[^"]+)"', text)]
    assert len({link.parent for link in links}) == 4 and all(link.is_file() for link in links)
    assert "LT-SFT, LT-SFT TA-only, seed 1" in text  # one run behind both systems


def test_runs_that_wandb_was_not_told_of_are_done_and_sent_when_there_is_nothing_else_to_do(
    nano_table: Callable[[Path], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("W&B could not upload")

    words = [*nano_table(tmp_path), "tracker.wandb=offline"]
    with monkeypatch.context() as patch:
        for name in ("trained", "evaluated"):
            patch.setattr(WandbRun, name, fail)
        assert reproduce(words) == 0
    (page,) = (tmp_path / "tables").glob("quickstart-*.html")
    assert "✕ failed" not in page.read_text(encoding="utf-8")
    for expected in (1, 0):  # sittings more, by the same command given twice
        before = len(list(tmp_path.glob("runs/*/wandb/offline-run-*")))
        assert reproduce(words) == 0
        assert len(list(tmp_path.glob("runs/*/wandb/offline-run-*"))) == before + 4 * expected
    for folder in (file.parent for file in tmp_path.glob("runs/*/manifest.json")):
        assert [end.exit_code for end in _records(folder, "exit")][-1] == 0
        made = {artifact.name for artifact in _records(folder, "artifact") if not artifact.use_after_commit}
        assert f"module-{folder.name}" in made
        lines = (folder / "metrics.jsonl").read_text().count("\n")
        assert [row for row, _, _ in _steps(folder)] == list(range(lines))


def test_translations_and_what_learns_from_them_end_well_at_wandb(
    command: Callable[..., Ended], tiny_bert: Path, tmp_path: Path
) -> None:
    write_shelf(tmp_path / "data")
    words = [*sentiment(tmp_path / "data", tiny_bert, tmp_path), *translate_train(), "tracker.wandb=offline"]
    ended = command(*words)
    assert ended.code == 0 and not [line for line in ended.lines if "not everything was sent" in line], ended.lines
    jobs = {}
    for folder in (file.parent for file in tmp_path.glob("runs/*/manifest.json")):
        jobs[_records(folder, "run")[0].job_type] = {end.exit_code for end in _records(folder, "exit")}
    assert jobs == {"base model": {0}, "translated source": {0}, "task module": {0}}


@pytest.mark.slow
def test_a_run_killed_outright_goes_on_in_the_same_one_without_gap_or_repetition(
    data_dir: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    words = [
        *("experiment=pos", "tracker.wandb=offline", f"data_dir={data_dir}", f"model.path={tiny_bert}"),
        *("method=bitfit", "language_modules=none", "task.max_length=40", "data.evaluation={}", "device=cpu"),
        *("threads=1", "train.precision=fp32", "train.max_steps=120", "train.min_steps=0", "train.batch_size=4"),
        *("train.evaluate_every_steps=40", "train.evaluate_every_epochs=null", "train.save_every_seconds=0"),
    ]
    command = [sys.executable, "-m", "xlt", *words]

    def lines() -> int:
        return sum(file.read_bytes().count(b"\n") for file in tmp_path.glob("outputs/runs/*/metrics.jsonl"))

    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, env=_environment()) as process:
        deadline = time.monotonic() + 90
        while lines() < 50 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and 50 <= lines() < 123
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=_environment())
    assert done.returncode == 0, done.stderr
    (folder,) = (file.parent for file in tmp_path.glob("outputs/runs/*/result.json"))
    assert len({run.run_id for run in _records(folder, "run")}) == 1
    assert len(list(folder.glob("wandb/offline-run-*"))) >= 2
    rows = list(_steps(folder))
    assert [row for row, _, _ in rows] == list(range(lines()))
    assert [step for _, _, step in rows if step == 120] == [120, 120]  # the step, and its validation
    assert "wandb:" not in done.stderr + done.stdout


def _environment() -> dict[str, str]:
    """With a W&B service of its own: that of this process would live on."""
    root = str(Path(__file__).parent.parent.parent)
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return {**own, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
