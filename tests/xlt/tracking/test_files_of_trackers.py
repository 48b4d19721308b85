"""CSV and TensorBoard: each record once, also after a kill, and what an earlier command did not write is added."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.xlt.tracking.offline_runs import RECORDS
from xlt.config import TrackerConfig, faults
from xlt.plan.planner import Run
from xlt.plan.store import RunStore
from xlt.tracking.watch import Watchers, send_unsent, watch

PLAIN = ("tracker.wandb='off'", "tracker.progress=false")
NUMBERS = [("dense", step, {"loss": 1 / step, "rate": 0.1}) for step in (1, 2, 3)]
NUMBERS += [("dense", 3, {"validation/accuracy": 50.0})]
NUMBERS += [("sparse", step, {"loss": 1 / (3 * step), "rate": 0.2}) for step in (1, 2)]


def train(watcher: Watchers, since: int = 0, until: int = len(NUMBERS)) -> None:
    watcher.rewind(since)
    for phase, step, values in NUMBERS[since:until]:
        watcher.metrics(phase, step, values)


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def test_a_csv_file_has_each_record_once_also_after_a_kill(make_run: Callable[..., Run], store: RunStore) -> None:
    run = make_run(*PLAIN, "tracker.csv=true")
    file = store.folder(run.fingerprint) / "metrics.csv"
    train(watch(run, store))
    whole = file.read_text(encoding="utf-8")
    rows = table(file)
    assert [(row["phase"], row["step"]) for row in rows] == [(phase, str(step)) for phase, step, _ in NUMBERS]
    assert [row["loss"] for row in rows] == ["1", "0.5", "0.3333333", "", "0.3333333", "0.1666667"]
    assert [row["validation/accuracy"] for row in rows] == ["", "", "", "50", "", ""]
    train(watch(run, store), until=5)  # its state was saved after two records, and it was killed after five
    assert len(table(file)) == 5
    train(watch(run, store), since=2)
    assert file.read_text(encoding="utf-8") == whole


def test_scores_are_a_csv_file_and_a_later_command_writes_what_is_missing(
    make_run: Callable[..., Run], store: RunStore
) -> None:
    without = make_run(*PLAIN)
    train(watch(without, store))
    store.add_evaluations(without.fingerprint, {"k1": RECORDS["k1"]})
    folder = store.folder(without.fingerprint)
    send_unsent([without], store)
    assert not list(folder.glob("*.csv"))
    run = make_run(*PLAIN, "tracker.csv=true")
    send_unsent([run], store)
    assert len(table(folder / "metrics.csv")) == len(NUMBERS)
    assert [row["accuracy"] for row in table(folder / "evaluation.csv")] == ["50"]
    store.add_evaluations(run.fingerprint, {"k2": RECORDS["k2"]})
    send_unsent([run], store)
    rows = table(folder / "evaluation.csv")
    assert sorted((row["composition"], row["macro_f1"], row["accuracy"]) for row in rows) == [
        ("task", "40", "50"),
        ("task+language", "60", ""),
    ]
    before = (folder / "evaluation.csv").stat().st_mtime_ns
    send_unsent([run], store)
    assert (folder / "evaluation.csv").stat().st_mtime_ns == before


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of each event, as TensorBoard reads the files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read: Any = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: [(one.step, one.value) for one in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_tensorboard_has_each_step_once_also_after_a_kill_and_the_scores(
    make_run: Callable[..., Run], store: RunStore
) -> None:
    pytest.importorskip("tensorboard")
    run = make_run(*PLAIN, "tracker.tensorboard=true", "tracker.csv=true")
    folder = store.folder(run.fingerprint) / "tensorboard"
    killed = watch(run, store)
    train(killed, until=5)
    killed.close()
    resumed = watch(run, store)
    train(resumed, since=2)
    resumed.close()
    found = curves(folder)
    assert found["dense/loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert [step for step, _ in found["sparse/loss"]] == [1, 2]
    assert found["dense/validation/accuracy"] == [(3, 50.0)]
    assert (store.folder(run.fingerprint) / "metrics.csv").is_file()  # both at once
    store.add_evaluations(run.fingerprint, {"k1": RECORDS["k1"]})
    for _ in range(2):
        watcher = watch(run, store)
        watcher.evaluated(store.evaluations(run.fingerprint))
        watcher.close()
        found = curves(folder)
        assert found["evaluation/fao/task/accuracy"] == [(0, 50.0)] and len(found["dense/loss"]) == 3
    store.add_evaluations(run.fingerprint, {"k2": RECORDS["k2"]})
    send_unsent([run], store)
    assert "evaluation/fao/task+language/macro_f1" in curves(folder)


def test_tensorboard_that_is_not_installed_is_said_before_anything_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = TrackerConfig(
        wandb="off", project="p", entity=None, group=None, artifacts=True, tensorboard=True, csv=True, progress=False
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (line,) = faults(tracker, "tracker")
    assert line.startswith("tracker.tensorboard=true") and "pip install 'xlt[tensorboard]'" in line
