"""The watchers of a run: each event reaches all of them, and `tracker` says which there are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.xlt.tracking.offline_runs import (
    RECORDS,
)
from xlt.engine.watching import Silence
from xlt.plan.planner import Run
from xlt.plan.store import RunStore
from xlt.tracking.watch import Watchers, watch

pytest.importorskip("wandb")


def test_off_is_off(make_run: Callable[..., Run], store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("tracker.wandb='off'", "tracker.progress=false")
    monkeypatch.setitem(sys.modules, "wandb", None)  # whoever imports it fails
    watcher = watch(run, store)
    watcher.metrics("train", 1, {"loss": 1.0})
    watcher.trained()
    watcher.evaluated(RECORDS)
    watcher.close()
    assert not (store.folder(run.fingerprint) / "wandb").exists()


def test_the_client_says_nothing_and_the_progress_says_where_it_keeps_the_run(
    make_run: Callable[..., Run], store: RunStore, capfd: pytest.CaptureFixture[str]
) -> None:
    watcher = watch(make_run(), store)
    watcher.metrics("train", 1, {"loss": 1.0})
    watcher.close()
    said = capfd.readouterr()
    assert said.out == ""
    assert "".join(said.err.split()).startswith("W&B:wandbsync/") and "offline-run-" in said.err


def test_every_watcher_hears_every_event(make_run: Callable[..., Run]) -> None:
    class Heard(Silence):
        def __init__(self) -> None:
            self.events: list[Any] = []

        def trained(self) -> None:
            self.events.append("trained")

        def evaluated(self, records: Any) -> None:
            self.events.append(records)

    ears = [Heard(), Heard()]
    watchers = Watchers(ears, "a run")
    watchers.trained()
    watchers.evaluated(RECORDS)
    assert [ear.events for ear in ears] == [["trained", RECORDS]] * 2
