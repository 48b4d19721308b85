"""The run store: `outputs/runs` has one folder for each run, named by the run's fingerprint."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import babel
import torch
from filelock import FileLock, Timeout

import xlt
from xlt.compose import plain
from xlt.config import RunConfig
from xlt.data.transforms.translation import DONE_FILE
from xlt.engine.run import CHECKPOINT_FOLDER, MODULE_FILE, RESULT_FILE
from xlt.engine.state import STATE_FILES
from xlt.errors import UsageError
from xlt.files import write_json

_DIGITS = 12
METRICS_FILE = "metrics.jsonl"
EVALUATION_FILE = "evaluation.json"
MANIFEST_FILE = "manifest.json"
_FAILURE_FILE = "failure.json"
_TRACEBACK_FILE = "traceback.txt"
_EVALUATION_TIME_FILE = "evaluation_time.json"


class RunStore:
    """The folders of all runs, and the files in them: results, evaluations, metrics, manifests, failures, locks.

    Args:
        root: the config's `output_dir`.
    Raises:
        UsageError: `root` begins with ~ and the name of an unknown user.
    """

    def __init__(self, root: str | Path) -> None:
        try:
            self.root = Path(root).expanduser()
        except RuntimeError as error:
            raise UsageError(f"output_dir={root}: this machine has no such user, whose home ~ stands for") from error
        self.runs = self.root / "runs"
        self._times: dict[str, tuple[str, float]] = {}

    def folder(self, fingerprint: str) -> Path:
        """Returns the folder of a run, which may not exist yet."""
        return self.runs / fingerprint[:_DIGITS]

    def is_trained(self, fingerprint: str) -> bool:
        return (self.folder(fingerprint) / RESULT_FILE).is_file()

    def has_state(self, fingerprint: str) -> bool:
        """Returns whether the store has saved state from which an interrupted run can continue."""
        folder = self.folder(fingerprint)
        return any((folder / name).is_file() for name in ("state.safetensors", DONE_FILE))

    def module_file(self, fingerprint: str) -> Path:
        return self.folder(fingerprint) / MODULE_FILE

    def checkpoint(self, fingerprint: str) -> Path:
        return self.folder(fingerprint) / CHECKPOINT_FOLDER

    def result(self, fingerprint: str) -> dict[str, Any]:
        return _read(self.folder(fingerprint) / RESULT_FILE)

    def evaluations(self, fingerprint: str) -> dict[str, dict[str, Any]]:
        """Returns key -> record for the finished evaluations of the run's module; records contain the identity."""
        return _read(self.folder(fingerprint) / EVALUATION_FILE)

    def add_evaluations(self, fingerprint: str, records: dict[str, dict[str, Any]]) -> None:
        merged = {**self.evaluations(fingerprint), **{k: {"finished": _now(), **one} for k, one in records.items()}}
        self._forget_failure(fingerprint)
        write_json(self.folder(fingerprint) / EVALUATION_FILE, merged)

    def metrics(self, fingerprint: str) -> list[dict[str, Any]]:
        """Returns the metric records so far, each with phase and step, without a last line that is incomplete."""
        file = self.folder(fingerprint) / METRICS_FILE
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def failure(self, fingerprint: str) -> str | None:
        """Returns why the run failed at its last attempt; None if it did not."""
        return _read(self.folder(fingerprint) / _FAILURE_FILE).get("reason")

    def traceback_file(self, fingerprint: str) -> Path:
        """Returns the file for the traceback of the run's last programming error."""
        return self.folder(fingerprint) / _TRACEBACK_FILE

    def record_failure(self, fingerprint: str, reason: str) -> None:
        folder = self.folder(fingerprint)
        if folder.is_dir():
            write_json(folder / _FAILURE_FILE, {"reason": reason, "when": _now()})

    def _forget_failure(self, fingerprint: str) -> None:
        (self.folder(fingerprint) / _FAILURE_FILE).unlink(missing_ok=True)
        self.traceback_file(fingerprint).unlink(missing_ok=True)

    def record_manifest(
        self,
        fingerprint: str,
        config: RunConfig,
        identity: dict[str, Any],
        kind: str,
        depends_on: dict[str, str],
        *,
        reading: Mapping[str, Any] | None = None,
        late: bool = False,
    ) -> None:
        """Writes the manifest: identity, whole config, versions, machine and dependencies of the run.

        Args:
            fingerprint, config, identity, kind, depends_on: of the run.
            reading: key of a source -> what was noticed while it was read; None: nothing is known.
            late: the process that trained the run was killed before it wrote the manifest, so another one writes it,
                whose versions and machine may differ.
        """
        folder = self.folder(fingerprint)
        self._forget_failure(fingerprint)
        manifest = {
            "fingerprint": fingerprint,
            "kind": kind,
            "identity": identity,
            "config": plain(config),
            "depends_on": depends_on,
            "finished": _now(),
            "seconds": self.result(fingerprint)["training"]["seconds"],
            "versions": _versions(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
            "threads": torch.get_num_threads(),
            "commit": _commit(),
            **({"reading": dict(reading)} if reading else {}),
            **({"recorded_late": True} if late else {}),
        }
        write_json(folder / MANIFEST_FILE, manifest)

    def lacks_manifest(self, fingerprint: str) -> bool:
        """Returns whether the run is trained but has no manifest, because its process was killed before the end."""
        return self.is_trained(fingerprint) and not (self.folder(fingerprint) / MANIFEST_FILE).is_file()

    def manifest(self, fingerprint: str) -> dict[str, Any]:
        return _read(self.folder(fingerprint) / MANIFEST_FILE)

    def manifests(self) -> Iterator[dict[str, Any]]:
        """Yields the manifests of all finished runs, and reads each only when it is needed."""
        for file in sorted(self.runs.glob(f"*/{MANIFEST_FILE}")):
            if manifest := _read(file):
                yield manifest

    def seconds_of_kind(self, kind: str) -> float | None:
        """Returns the median training time, in seconds, of past runs of a kind; None if there are none."""
        for file in self.runs.glob(f"*/{MANIFEST_FILE}"):
            if file.parent.name not in self._times:
                manifest = _read(file)
                self._times[file.parent.name] = str(manifest.get("kind")), manifest.get("seconds", 0.0)
        times = sorted(seconds for known, seconds in self._times.values() if known == kind)
        return times[len(times) // 2] if times else None

    def record_evaluation_time(self, fingerprint: str, kind: str, evaluations: int, seconds: float) -> None:
        """Records the time that evaluations of a run took, with loading the model; `kind` is as in the manifest."""
        file = self.folder(fingerprint) / _EVALUATION_TIME_FILE
        before = _read(file)
        evaluations += before.get("evaluations", 0)
        write_json(file, {"kind": kind, "evaluations": evaluations, "seconds": seconds + before.get("seconds", 0.0)})

    def seconds_of_evaluation(self, kind: str) -> float | None:
        """Returns the median time, in seconds, of one evaluation of past runs of a kind; None if there are none."""
        times = sorted(
            record["seconds"] / record["evaluations"]
            for file in self.runs.glob(f"*/{_EVALUATION_TIME_FILE}")
            if (record := _read(file)).get("kind") == kind
        )
        return times[len(times) // 2] if times else None

    def unfinished(self) -> dict[str, list[Path]]:
        """Returns folder name -> state files, for unfinished runs that no process is working on."""
        by_name = {}
        for folder in sorted(self.runs.glob("[!.]*")):
            if (folder / RESULT_FILE).is_file():
                continue
            files = [file for pattern in (*STATE_FILES, DONE_FILE) for file in folder.glob(pattern) if file.is_file()]
            if files and not self.is_worked_on(folder.name):
                by_name[folder.name] = files
        return by_name

    def is_worked_on(self, fingerprint: str) -> bool:
        """Returns whether a process, perhaps this one, holds the run's lock at this moment."""
        file = self._lock_file(fingerprint)
        if not file.exists():
            return False
        try:
            with FileLock(str(file), timeout=0):
                return False
        except Timeout:
            return True

    def _lock_file(self, fingerprint: str) -> Path:
        return self.runs / ".locks" / f"{fingerprint[:_DIGITS]}.lock"

    @contextmanager
    def lock(self, fingerprint: str) -> Iterator[None]:
        """Holds the run's lock within a `with` block; the system releases the lock if the process dies."""
        file = self._lock_file(fingerprint)
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(file)):
            yield


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    import transformers

    return {
        "xlt": xlt.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "babel": babel.__version__,
    }


def _commit() -> str | None:
    """Returns the commit of the checkout, marked if files were changed; None without a checkout or without git."""
    root = Path(xlt.__file__).parent.parent
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except OSError:
        return None
