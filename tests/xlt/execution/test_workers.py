from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from xlt.config import LauncherConfig, faults
from xlt.engine.training import StopSignals
from xlt.execution.workers import ClusterWorkers, JobResult, LocalWorkers, Workers, make_workers

pytest.importorskip("submitit")


def launcher(**values: object) -> LauncherConfig:
    usual = dict(workers=2, cluster="local", partition=None, account=None, minutes=5, memory_gb=1, cpus=1, gpus=0)
    return LauncherConfig(**(usual | dict(seconds_to_save=30, requeues=3, setup=[], sbatch={}) | values))  # type: ignore[arg-type]


def told(reason: str) -> JobResult:
    return JobResult(f"{reason} from {os.getpid()} with {torch.get_num_threads()}")


def killed() -> JobResult:
    os.kill(os.getpid(), signal.SIGKILL)
    return JobResult()


def stopped_at_first(mark: Path) -> JobResult:
    """As a training that is preempted once, and then goes on from its state."""
    if mark.exists():
        return JobResult(mark.read_text(encoding="utf-8"))
    mark.write_text("went on", encoding="utf-8")
    return JobResult("interrupted", interrupted=signal.SIGUSR2)


def all_of(workers: Workers, calls: dict[str, Callable[[], JobResult]]) -> dict[object, JobResult]:
    workers.start(calls)
    ended: dict[object, JobResult] = {}
    try:
        while len(ended) < len(calls):
            ended |= dict(workers.finished())
    finally:
        workers.close()
    return ended


def test_one_worker_is_this_process() -> None:
    assert make_workers(launcher(workers=1, cluster=None), Path("nowhere")) is None


def test_processes_share_the_cores_out_and_a_killed_one_takes_no_other_with_it() -> None:
    ended = all_of(LocalWorkers(2), {"a": functools.partial(told, "a"), "b": killed})
    assert ended["b"].reason == "its process died (out of memory, or killed)"
    each = max(1, len(os.sched_getaffinity(0)) // 2)
    assert ended["a"].reason is not None and ended["a"].reason.endswith(f"with {each}")
    assert str(os.getpid()) not in ended["a"].reason


def test_a_slot_whose_process_died_serves_the_next_job() -> None:
    workers = LocalWorkers(1)
    workers.start({"a": killed})
    assert [key for key, _ in workers.finished()] == ["a"]
    assert all_of(workers, {"b": functools.partial(told, "b")})["b"].reason is not None


def test_a_process_that_is_killed_between_two_jobs_takes_none_with_it() -> None:
    workers = LocalWorkers(1)
    workers.start({"a": functools.partial(told, "a")})
    workers.finished()
    [process] = multiprocessing.active_children()
    process.kill()
    process.join()
    pool = workers._slots[0]
    assert pool is not None
    with contextlib.suppress(BrokenProcessPool):
        pool.submit(os.getpid).exception()  # returns once the pool has seen it
    ended = all_of(workers, {"b": functools.partial(told, "b")})
    assert ended["b"].reason is not None and ended["b"].reason.startswith("b from ")


PARENT = """
import functools, os, signal, sys, time
from tests.xlt.execution.test_workers import told, until_told_to_stop
from xlt.execution.workers import LocalWorkers
if __name__ == "__main__":
    workers = LocalWorkers(2)
    idle, busy = functools.partial(told, "a"), functools.partial(until_told_to_stop, sys.argv[1])
    workers.start({"idle": idle, "busy": busy})
    [(_, result)] = workers.finished()
    print(result.reason, flush=True)
    while not os.path.exists(f"{sys.argv[1]}.begun"):  # before it, the other would end without anything to save
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def until_told_to_stop(mark: str) -> JobResult:
    """As a training that saves its state when SIGTERM comes."""
    with StopSignals() as stop:
        Path(f"{mark}.begun").touch()
        while not stop.number:
            time.sleep(0.01)
    Path(mark).write_text(f"{os.getpid()}", encoding="utf-8")
    return JobResult("interrupted", interrupted=stop.number)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_processes_end_with_a_killed_parent_and_what_trains_saves_its_state(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "saved")]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        timeout=120,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL and ended.stdout.startswith("a from "), ended.stderr
    idle = ended.stdout.split()[2]
    deadline = time.monotonic() + 300
    while not (tmp_path / "saved").exists() or _runs(idle) or _runs((tmp_path / "saved").read_text(encoding="utf-8")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(process: str) -> bool:
    """Returns whether a process runs; one that has ended, and for which its new parent has not asked, does not."""
    try:
        state = Path("/proc", process, "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_clusters_job_that_saved_its_state_is_submitted_again(tmp_path: Path) -> None:
    workers = ClusterWorkers(launcher(), tmp_path / "cluster")
    calls = {"a": functools.partial(told, "a"), "b": functools.partial(stopped_at_first, tmp_path / "mark")}
    ended = all_of(workers, calls)
    assert ended["b"] == JobResult("went on")
    assert ended["a"].reason is not None and ended["a"].reason.startswith("a from ")
    assert len(list((tmp_path / "cluster").rglob("*_result.pkl"))) == 3


def test_a_clusters_job_is_not_submitted_again_for_ever(tmp_path: Path) -> None:
    workers = ClusterWorkers(launcher(requeues=0), tmp_path / "cluster")
    ended = all_of(workers, {"b": functools.partial(stopped_at_first, tmp_path / "mark")})
    assert ended["b"].interrupted == signal.SIGUSR2


def test_a_clusters_job_that_died_says_where_its_log_is(tmp_path: Path) -> None:
    ended = all_of(ClusterWorkers(launcher(), tmp_path), {"a": killed})
    assert ended["a"].reason is not None
    assert ended["a"].reason.startswith("its process died") and "_log.err" in ended["a"].reason


def test_a_slurm_job_that_left_the_queue_without_a_result_has_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = {"sbatch": "echo Submitted batch job 7", "squeue": "echo 8_0", "srun": "true", "scancel": "true"}
    for name, line in commands.items():
        file = tmp_path / name
        file.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        file.chmod(file.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("xlt.execution.workers._SECONDS_BETWEEN_RESULT_CHECKS", {"slurm": 0.01})
    monkeypatch.setattr("xlt.execution.workers._SECONDS_BETWEEN_QUEUE_READS", {"slurm": 0.02})
    config = launcher(cluster="slurm", partition="night", setup=["module load cuda"], sbatch={"qos": "low"})
    assert list(faults(config, "launcher")) == []
    workers = ClusterWorkers(config, tmp_path / "cluster")
    ended = all_of(workers, {"a": functools.partial(told, "a")})
    assert ended["a"].reason is not None and ended["a"].reason.startswith("its process died")
    lines = (tmp_path / "cluster" / "7" / "7_submission.sh").read_text(encoding="utf-8").splitlines()
    for wanted in ("--partition=night", "--qos=low", "--requeue", "--signal=USR2@30", "--time=5", "--mem=1GB"):
        assert any(wanted in line for line in lines), wanted
    assert "module load cuda" in lines


def test_without_slurm_the_launcher_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    (line,) = faults(launcher(cluster="slurm"), "launcher")
    assert line == "launcher.cluster=slurm: no sbatch here; run it where jobs are submitted, or take launcher=parallel"
