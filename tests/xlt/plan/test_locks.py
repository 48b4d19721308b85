"""Who waits for a lock says for whom; what a killed holder left is found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from xlt.plan import locks
from xlt.plan.locks import abandoned, held, waiting_line
from xlt.plan.store import RunStore
from xlt.writers import temporary_path

RUN = "0123456789ab"
HOLDS = """
import sys, time
from pathlib import Path
from xlt.plan.locks import held
from xlt.writers import temporary_path
runs, run = Path(sys.argv[1]) / "runs", sys.argv[2]
with held(runs / ".locks" / f"{run}.lock"):
    (runs / run).mkdir(parents=True)
    temporary_path(runs / run / "module.safetensors").write_text("half")
    print("holds", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of a run, and is in the middle of writing a file of it."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path), RUN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        yield process
        process.kill()


def test_who_waits_says_for_which_process_and_a_stopped_holder_is_found_out(
    holder: subprocess.Popen[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_PATIENCE_SECONDS", (0.2, 0.2))
    store = RunStore(tmp_path)
    os.kill(holder.pid, signal.SIGSTOP)
    threading.Timer(2.0, holder.kill).start()
    with store.lock(RUN):
        lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert RUN in line and f"process {holder.pid} on " in line and time.strftime("%Y-%m-%d") in line
        assert "it is stopped" in line and f"kill -CONT {holder.pid}" in line
    assert not list((tmp_path / "runs" / ".locks").glob("*.holder"))


def test_what_a_killed_holder_left_is_removed_by_the_next_command_and_nothing_of_a_running_one(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    store, folder = RunStore(tmp_path), tmp_path / "runs" / RUN
    elsewhere = [tmp_path / name for name in ("cache/features", "tables", "sweeps/first")]
    for place in elsewhere:
        place.mkdir(parents=True)
        (place / ".file.0123456789ab.tmp").write_text("half")
        os.utime(place / ".file.0123456789ab.tmp", (0, 0))
    store.remove_left_overs([RUN])
    assert not [path for place in elsewhere for path in place.iterdir()]
    assert len(list(folder.iterdir())) == 1 and not list(abandoned(tmp_path / "runs" / ".locks"))
    holder.kill()
    holder.wait()
    assert [file.stem for file in abandoned(tmp_path / "runs" / ".locks")] == [RUN]
    store.remove_left_overs([])
    assert not list(folder.iterdir()) and not list((tmp_path / "runs" / ".locks").glob("*.holder"))


def test_the_line_names_other_machines_ended_holders_and_unknown_ones(tmp_path: Path) -> None:
    file = tmp_path / f"{RUN}.lock"
    assert "nobody has written which" in waiting_line(file)
    with held(file):
        note = file.with_name(f"{file.name}.holder")
        content = json.loads(note.read_text())
        assert f"process {os.getpid()} on " in waiting_line(file)
        note.write_text(json.dumps({**content, "started": content["started"] + 1}))
        assert "it has ended" in waiting_line(file) and str(file) in waiting_line(file)
        note.write_text(json.dumps({**content, "host": "elsewhere", "since": "2020-01-01T00:00:00+00:00"}))
        assert "on elsewhere" in waiting_line(file) and f"remove {file}" in waiting_line(file)
        for damaged in ("", "[]", "{", '{"host": "a"}'):
            note.write_text(damaged)
            assert "nobody has written which" in waiting_line(file)
    assert not note.exists()


def test_a_lock_that_is_free_is_held_without_a_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with held(tmp_path / "locks" / "a.lock"):
            temporary_path(tmp_path / "x")
    assert capfd.readouterr().err == ""
