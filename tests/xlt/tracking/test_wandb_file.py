"""The files of W&B's offline mode are read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.xlt.tracking.offline_runs import (
    record_step,
    start_tracking,
)
from xlt.plan.store import RunStore
from xlt.tracking.wandb_file import records

pytest.importorskip("wandb")


def test_a_file_that_is_no_log_is_refused_and_half_a_record_left_out(tmp_path: Path, make_run: Any, store: Any) -> None:
    (tmp_path / "other").write_bytes(b"something else")
    with pytest.raises(ValueError, match="not a log"):
        list(records(tmp_path / "other"))
    run = make_run()
    watcher = start_tracking(run, store)
    record_step(watcher, "train", 1)
    watcher.close()
    (file,) = store.folder(run.fingerprint).glob("wandb/offline-run-*/*.wandb")
    whole = file.read_bytes()
    count = len(list(records(file)))
    (tmp_path / "cut").write_bytes(whole[:-3])
    assert len(list(records(tmp_path / "cut"))) == count - 1
    (tmp_path / "empty").write_bytes(b"")
    assert list(records(tmp_path / "empty")) == []


def test_the_records_of_the_last_blocks_are_the_last_records(make_run: Any, store: RunStore) -> None:
    run = make_run()
    watcher = start_tracking(run, store)
    for step in range(1, 301):
        record_step(watcher, "train", step)
    watcher.close()
    (file,) = store.folder(run.fingerprint).glob("wandb/offline-run-*/*.wandb")
    whole = [record.num for record in records(file)]
    for block in range(1, file.stat().st_size // (32 * 1024) + 1):
        tail = [record.num for record in records(file, block)]
        assert tail and tail == whole[-len(tail) :]
