"""The history of a run at W&B: its rows are those of the metrics file, also after a kill or a resumption."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.xlt.tracking.offline_runs import (
    RECORDS,
    all_records,
    history_rows,
    record_step,
    start_tracking,
    summary_values,
)
from xlt.plan.planner import Run
from xlt.plan.store import RunStore
from xlt.tracking.jsonl import MetricsFile

pytest.importorskip("wandb")


def test_each_phase_has_an_axis_of_its_own_and_the_tasks_metric_a_direction(
    make_run: Callable[..., Run], store: RunStore
) -> None:
    run = make_run()
    watcher = start_tracking(run, store)
    for phase in ("dense", "sparse"):
        watcher.begin_phase(phase, 0, 2)
        record_step(watcher, phase, 1)
        for step, score in ((1, 70.0), (2, 60.0)):
            watcher.metrics(phase, step, {"validation/accuracy": score})
    watcher.close()
    metrics = {metric.name or metric.glob_name: metric for metric in all_records(run, store, "metric")}
    assert {name: metric.step_metric for name, metric in metrics.items() if metric.step_metric} == {
        "dense/*": "dense/step",
        "dense/loss": "dense/step",
        "dense/validation/accuracy": "dense/step",
        "sparse/*": "sparse/step",
        "sparse/loss": "sparse/step",
        "sparse/validation/accuracy": "sparse/step",
    }
    assert metrics["dense/validation/accuracy"].summary.max and metrics["dense/loss"].summary.min
    assert summary_values(run, store)["sparse/validation/accuracy"] == {"max": 70.0}
    assert history_rows(run, store)[:2] == [
        {"row": 0, "dense/step": 1, "dense/loss": 1.0, "dense/rate": 0.1},
        {"row": 1, "dense/step": 1, "dense/validation/accuracy": 70.0},
    ]


def test_a_resumed_run_goes_on_in_the_same_one_and_repeats_nothing(
    make_run: Callable[..., Run], store: RunStore
) -> None:
    run = make_run()
    first = start_tracking(run, store)
    first.begin_phase("train", 0, 8)
    for step in range(1, 6):
        record_step(first, "train", step)
    first.close()
    again = start_tracking(run, store)
    again.rewind(3)  # its state was saved after step 3
    again.begin_phase("train", 3, 8)
    for step in range(4, 9):
        record_step(again, "train", step)
    again.close()
    assert {said.run_id for said in all_records(run, store, "run")} == {run.fingerprint[:16]}
    assert all(said.resume for said in all_records(run, store, "run"))
    history = history_rows(run, store)
    assert [row["train/step"] for row in history] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row["row"] for row in history] == list(range(8))
    assert [ended.exit_code for ended in all_records(run, store, "exit")] == [1, 1]  # neither sitting saw the end


def test_what_a_killed_client_had_not_written_is_sent_again_from_the_file(
    make_run: Callable[..., Run], store: RunStore
) -> None:
    run = make_run()
    killed = start_tracking(run, store)
    killed.begin_phase("train", 0, 400)
    for step in range(1, 301):
        record_step(killed, "train", step)
    killed.close()
    (file,) = store.folder(run.fingerprint).glob("wandb/offline-run-*/*.wandb")
    file.write_bytes(file.read_bytes()[: 32 * 1024])  # the client writes a block at a time
    kept = len(history_rows(run, store))
    assert 0 < kept < 299
    again = start_tracking(run, store)
    again.rewind(299)
    again.begin_phase("train", 299, 400)
    record_step(again, "train", 300)
    again.close()
    history = history_rows(run, store)
    assert [row["train/step"] for row in history] == list(range(1, 301))
    assert history[kept]["train/loss"] == pytest.approx(1 / (kept + 1), rel=1e-6)


def test_a_run_that_began_without_wandb_is_whole_there(make_run: Callable[..., Run], store: RunStore) -> None:
    run = make_run()
    file = MetricsFile(store.folder(run.fingerprint))
    for step in (1, 2):
        file.metrics("train", step, {"loss": float("nan") if step == 2 else 1.0})
    watcher = start_tracking(run, store)
    watcher.evaluated(RECORDS)
    watcher.close()
    history = history_rows(run, store)
    assert history[:2] == [{"row": 0, "train/step": 1, "train/loss": 1.0}, {"row": 1, "train/step": 2}]
    assert {artifact.name for artifact in all_records(run, store, "artifact") if artifact.type == "module"} == {
        "module-abababababab",
        "module-babababababa",
        "module-e0e0e0e0e0e0",
        "module-fafafafafafa",
    }
