"""Left-overs of killed writers are removed, those of running ones never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xlt.files import atomic_text
from xlt.writers import ELSEWHERE, GONE, RUNNING, STOPPED, Writer, remove_left_overs, temporary_path, this_process

WRITES = """
import sys, time
from pathlib import Path
from xlt.files import atomic_text
from xlt.writers import this_process
with atomic_text(Path(sys.argv[1])) as file:
    file.write("half")
    file.flush()
    me = this_process()
    print(me.pid, me.started, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Writer]]:
    """A process that is in the middle of writing `tmp_path / "file"`."""
    command = [sys.executable, "-c", WRITES, str(tmp_path / "file")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, started = map(int, process.stdout.readline().split())
        yield process, Writer(this_process().host, pid, started)
        process.kill()


def _wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_writer_is_running_stopped_or_gone(writer: tuple[subprocess.Popen[str], Writer]) -> None:
    process, known = writer
    assert known.state() == RUNNING == this_process().state()
    assert Writer("another machine", known.pid, known.started).state() == ELSEWHERE
    assert Writer(known.host, known.pid, known.started + 1).state() == GONE  # a later process with this number
    os.kill(process.pid, signal.SIGSTOP)
    _wait_for(lambda: known.state() == STOPPED)
    process.kill()
    _wait_for(lambda: known.state() == GONE)


def test_a_file_is_left_over_when_its_writer_is_gone_and_not_before(
    writer: tuple[subprocess.Popen[str], Writer], tmp_path: Path
) -> None:
    process, _ = writer
    assert remove_left_overs(tmp_path) == [] and len(list(tmp_path.iterdir())) == 1
    os.kill(process.pid, signal.SIGSTOP)
    assert remove_left_overs(tmp_path) == []
    process.kill()
    process.wait()
    assert len(remove_left_overs(tmp_path)) == 1 and not list(tmp_path.iterdir())


def test_files_of_other_machines_and_of_earlier_versions_are_left_over_after_a_day(tmp_path: Path) -> None:
    names = [".result.json.0123456789ab.tmp", ".result.json.abcdef-123-456-01234567.tmp"]
    for name in names:
        (tmp_path / name).write_text("half")
    folder = tmp_path / ".checkpoint.0123456789ab.tmp"
    folder.mkdir()
    (folder / "model.safetensors").write_text("half")
    others = ["notes.tmp", ".hidden.tmp", "result.json", ".result.json.0123456789ab.tmp.txt"]
    for name in others:
        (tmp_path / name).write_text("whole")
        os.utime(tmp_path / name, (0, 0))
    assert remove_left_overs(tmp_path) == []
    for path in [*(tmp_path / name for name in names), folder, folder / "model.safetensors"]:
        os.utime(path, (0, 0))
    assert len(remove_left_overs(tmp_path)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
    assert remove_left_overs(tmp_path / "absent") == []


def test_this_processs_own_files_stay(tmp_path: Path) -> None:
    with atomic_text(tmp_path / "file") as file:
        assert remove_left_overs(tmp_path) == []
        file.write("whole")
    assert (tmp_path / "file").read_text() == "whole"
    assert temporary_path(tmp_path / "file") != temporary_path(tmp_path / "file")
