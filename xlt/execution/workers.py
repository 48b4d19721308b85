"""Workers: they carry out jobs outside this process, on this machine or, through submitit, on a cluster."""

from __future__ import annotations

import getpass
import math
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from xlt.config import LauncherConfig
from xlt.plug_ins import activate

_DIED = "its process died (out of memory, or killed)"
_SECONDS_TO_SAVE = 60
# Result files are looked for often; the queue is read less often, because that burdens the cluster.
_SECONDS_BETWEEN_RESULT_CHECKS = {"slurm": 2.0, "local": 0.2}
_SECONDS_BETWEEN_QUEUE_READS = {"slurm": 30.0, "local": 0.2}


@dataclass(frozen=True)
class JobResult:
    """The result of a job.

    Attributes:
        reason: why it failed, one line; None if it did not fail.
        refused: whether it failed because of wrong input, which the user can correct, and not because of a bug.
        interrupted: number of the signal that stopped it after it had saved its state; 0 if none did.
    """

    reason: str | None = None
    refused: bool = False
    interrupted: int = 0


class Workers(Protocol):
    """A group of workers, which carry out several jobs at once.

    Attributes:
        count: number of jobs at the same time.
    """

    count: int

    def start(self, calls: Mapping[Hashable, Callable[[], JobResult]]) -> None:
        """Starts jobs, by their keys; the caller must not give more jobs than there are free workers."""

    def finished(self) -> list[tuple[Hashable, JobResult]]:
        """Waits until at least one job has ended, and returns those that have."""

    def stop(self) -> None:
        """Asks all running jobs to save their state, and waits until they have ended."""

    def close(self) -> None:
        """Releases the workers; no job may be started afterwards."""


def make_workers(config: LauncherConfig, folder: Path) -> Workers | None:
    """Makes the workers that a launcher's config describes; returns None if everything is done in this process.

    Args:
        config: of the launcher.
        folder: for the logs of a cluster's jobs.
    """
    if config.cluster is not None:
        return ClusterWorkers(config, folder)
    return LocalWorkers(config.workers) if config.workers > 1 else None


class LocalWorkers:
    """Worker processes on this machine; each has a share of the cores and, if there are several GPUs, its own GPU.

    If a job's process is killed, the other jobs continue, and a process that is killed between two jobs is replaced.
    When this process is killed, the workers end too; a job that trains saves its state first.

    Args:
        count: number of processes, at least one.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._slots: list[ProcessPoolExecutor | None] = [None] * count
        self._running: dict[Future[JobResult], tuple[Hashable, int]] = {}

    def start(self, calls: Mapping[Hashable, Callable[[], JobResult]]) -> None:
        busy = {slot for _, slot in self._running.values()}
        free = (slot for slot in range(self.count) if slot not in busy)
        for key, call in calls.items():
            slot = next(free)
            self._running[self._submit(call, slot)] = (key, slot)

    def finished(self) -> list[tuple[Hashable, JobResult]]:
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        ended = []
        for future in done:
            key, slot = self._running.pop(future)
            try:
                result = future.result()
            except BrokenProcessPool:
                result = JobResult(_DIED)
                executor, self._slots[slot] = self._slots[slot], None
                if executor is not None:
                    executor.shutdown(wait=False)
            ended.append((key, result))
        return ended

    def stop(self) -> None:
        for process in multiprocessing.active_children():
            process.terminate()
        wait(self._running, timeout=_SECONDS_TO_SAVE)

    def close(self) -> None:
        for executor in self._slots:
            if executor is not None:
                executor.shutdown(wait=False, cancel_futures=True)

    def _submit(self, call: Callable[[], JobResult], slot: int) -> Future[JobResult]:
        try:
            return (self._slots[slot] or self._start_process(slot)).submit(_carry_out, call)
        except BrokenProcessPool:  # the process was killed while it waited for a job
            return self._start_process(slot).submit(_carry_out, call)

    def _start_process(self, slot: int) -> ProcessPoolExecutor:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        gpus = torch.cuda.device_count()
        gpu = str(slot % gpus) if gpus > 1 else None
        executor = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_initialise_worker,
            initargs=(max(1, cores // self.count), gpu),
        )
        self._slots[slot] = executor
        return executor


def _initialise_worker(threads: int, gpu: str | None) -> None:
    activate()
    # Ctrl-C reaches all processes. Workers ignore it: a training job has its own handler, and `stop` ends idle workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)  # the run's setting `threads` overrides this
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


def _end_with_parent() -> None:
    """Waits until the parent process, which gives the jobs, has ended; then ends this process by SIGTERM."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _carry_out(call: Callable[[], JobResult]) -> JobResult:
    result = call()
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)  # otherwise this process would wait forever for its parent to read the result
    return result


class ClusterWorkers:
    """Workers on a cluster; jobs that can start at the same time are submitted as one array.

    If a signal stops a job after it saved its state (preemption, or the end of its time), the job is submitted again
    and continues from the state. A job that SLURM itself puts back into the queue also continues. A job that is no
    longer in the queue and has no result has died. The queue is read with `squeue`, which needs no accounting.

    Args:
        config: of the launcher: the resources of each job.
        folder: for scripts and logs.
    """

    def __init__(self, config: LauncherConfig, folder: Path) -> None:
        import submitit

        assert config.cluster is not None
        self.count = config.workers
        self._config = config
        self._executor = submitit.AutoExecutor(folder=str(folder / "%j"), cluster=config.cluster)
        self._executor.update_parameters(**_submitit_parameters(config))
        self._running: dict[Hashable, tuple[Any, Callable[[], JobResult]]] = {}
        self._requeued: dict[Hashable, int] = {}
        self._queue_read_at = time.monotonic()

    def start(self, calls: Mapping[Hashable, Callable[[], JobResult]]) -> None:
        with self._executor.batch():
            jobs = {key: self._executor.submit(ClusterJob(call)) for key, call in calls.items()}
        self._running |= {key: (job, calls[key]) for key, job in jobs.items()}

    def finished(self) -> list[tuple[Hashable, JobResult]]:
        while True:
            ended = []
            queue = self._queue()
            for key, (job, call) in list(self._running.items()):
                if job.paths.result_pickle.exists():
                    result = _result_of(job)
                elif queue is not None and job.job_id not in queue and not job.paths.result_pickle.exists():
                    result = JobResult(f"{_DIED}; see {job.paths.stderr}")
                else:
                    continue
                del self._running[key]
                if result.interrupted and self._requeued.get(key, 0) < self._config.requeues:
                    self._requeued[key] = self._requeued.get(key, 0) + 1
                    self.start({key: call})
                else:
                    ended.append((key, result))
            if ended:
                return ended
            time.sleep(_SECONDS_BETWEEN_RESULT_CHECKS[str(self._config.cluster)])

    def _queue(self) -> set[str] | None:
        """Returns the ids of waiting and running jobs; None if the queue was just read, or cannot be read."""
        if time.monotonic() - self._queue_read_at < _SECONDS_BETWEEN_QUEUE_READS[str(self._config.cluster)]:
            return None
        self._queue_read_at = time.monotonic()
        if self._config.cluster == "local":
            return {job.job_id for job, _ in self._running.values() if not job.done()}
        command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={getpass.getuser()}"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        return set(answer.stdout.split()) if answer.returncode == 0 else None

    def stop(self) -> None:
        for job, _ in self._running.values():
            job.cancel(check=False)
        until = time.monotonic() + _SECONDS_TO_SAVE
        while time.monotonic() < until and self._running:
            self._queue_read_at = -math.inf
            queue = self._queue()
            if queue is not None and not any(job.job_id in queue for job, _ in self._running.values()):
                break
            time.sleep(0.5)

    def close(self) -> None: ...


class ClusterJob:
    """A job as submitit expects it. If SLURM stops the job while it is not training, submitit submits it again."""

    def __init__(self, call: Callable[[], JobResult]) -> None:
        self._call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return _cluster_job, (_Activation(), self._call)

    def __call__(self) -> JobResult:
        return self._call()

    def checkpoint(self) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class _Activation:
    """When it is unpickled, plug-ins become importable, because what comes after it in the pickle may be of one."""

    def __reduce__(self) -> tuple[Any, ...]:
        return activate, ()


def _cluster_job(activated: None, call: Callable[[], JobResult]) -> ClusterJob:
    return ClusterJob(call)


def _result_of(job: Any) -> JobResult:
    try:
        return job.result()
    except Exception as error:  # a job returns its own errors as results, so this is an error of the cluster
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return JobResult(f"{_DIED}: {lines[0] if lines else type(error).__name__}; see {job.paths.stderr}")


def _submitit_parameters(config: LauncherConfig) -> dict[str, Any]:
    """Returns the resources of a job under submitit's names; settings that are null are left out."""
    parameters: dict[str, Any] = {
        "name": "xlt",
        "timeout_min": config.minutes,
        "mem_gb": config.memory_gb,
        "cpus_per_task": config.cpus,
        "gpus_per_node": config.gpus,
    }
    if config.cluster == "slurm":
        parameters |= {
            "slurm_partition": config.partition,
            "slurm_account": config.account,
            "slurm_array_parallelism": config.workers,
            "slurm_signal_delay_s": config.seconds_to_save,
            "slurm_setup": list(config.setup) or None,
            "slurm_additional_parameters": {"requeue": True, **config.sbatch},
        }
    return {name: value for name, value in parameters.items() if value is not None}
