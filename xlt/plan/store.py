"""The run store: `outputs/runs` has one folder for each run, named by the run's fingerprint."""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import babel
import torch
from filelock import FileLock, Timeout

import xlt
from xlt.compose import recorded
from xlt.config import RunConfig
from xlt.data.transforms.translation import DONE_FILE
from xlt.engine.run import CHECKPOINT_FOLDER, MODULE_FILE, RESULT_FILE, ModuleFile
from xlt.engine.state import STATE_FILES
from xlt.errors import UsageError
from xlt.files import DamagedFileError, atomic_text, read_sealed, report, sealed, set_aside, write_json, write_sealed
from xlt.modules import ModuleArtefact
from xlt.plan.damage import (
    FILES_KEY,
    check_evaluation_time,
    check_failure,
    check_manifest,
    check_result,
    fault_of_files,
    files_of,
    sound_evaluations,
    sound_metrics,
)
from xlt.plan.locks import abandoned, forget_holder, held, note_holder
from xlt.plan.parsed_files import ParsedFiles
from xlt.plan.run_index import RunIndex, comparable, kind_with_debug
from xlt.writers import remove_left_overs

_DIGITS = 12
_FOLDER_NAME = re.compile(f"[0-9a-f]{{{_DIGITS}}}")
_RECORDS_KEY = "records"
_EVALUATED_AGAIN = "what it lacks is evaluated again"
METRICS_FILE = "metrics.jsonl"
EVALUATION_FILE = "evaluation.json"
MANIFEST_FILE = "manifest.json"
PREDICTIONS_FOLDER = "predictions"
_FAILURE_FILE = "failure.json"
_TRACEBACK_FILE = "traceback.txt"
_EVALUATION_TIME_FILE = "evaluation_time.json"


class RunStore:
    """The folders of all runs, and the files in them: results, evaluations, metrics, manifests, failures, locks.

    What is read is checked. A damaged file is set aside, which a line on standard error says; then the run counts as
    one without this file, so that the commands make it again.

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
        self._index = RunIndex(
            self.runs,
            {MANIFEST_FILE: self._manifest_facts, _EVALUATION_TIME_FILE: self._evaluation_facts},
            _is_run,
        )
        self._held: set[Path] = set()
        self._parsed = ParsedFiles()

    def folder(self, fingerprint: str) -> Path:
        """Returns the folder of a run, which may not exist yet."""
        return self.runs / fingerprint[:_DIGITS]

    def place_faults(self, fingerprints: Iterable[str]) -> list[str]:
        """Returns a line for each file that stands where the store needs a folder, for runs that are to be made."""
        folders = {self.folder(fingerprint): f"the folder of run {fingerprint}" for fingerprint in fingerprints}
        folders |= {self.runs / ".locks": "the folder of the locks", self.root / "cache": "the cache"}
        return [
            f"{folder}: is no folder, but {what} belongs there; move it away"
            for folder, what in folders.items()
            if (folder.exists() or folder.is_symlink()) and not folder.is_dir()
        ]

    def is_trained(self, fingerprint: str) -> bool:
        return bool(self.result(fingerprint))

    def has_result(self, fingerprint: str) -> bool:
        """Returns whether there is a result, which may be damaged; it takes less time than `is_trained`."""
        return (self.folder(fingerprint) / RESULT_FILE).is_file()

    def is_sound(self, fingerprint: str) -> bool:
        """Returns whether a run is trained and its module, checkpoint or translation is as the run left it.

        Every byte is read. If a file is damaged, missing or another run's, it is set aside together with the result,
        so that the run counts as not trained. The digests of a run of an earlier version are recorded now.
        """
        folder = self.folder(fingerprint)
        result = self.result(fingerprint)
        if not result:
            return False
        fault = fault_of_files(folder, fingerprint, result)
        if fault is None and FILES_KEY in result:
            return True
        with self.lock_if_free(fingerprint) as is_mine:
            if not is_mine:
                if fault is not None:
                    report(fault[0], f"{fault[1]}; another process works on the run")
                return fault is None
            result = self.result(fingerprint)
            fault = fault_of_files(folder, fingerprint, result) if result else (folder / RESULT_FILE, "it is missing")
            if fault is None:
                if FILES_KEY not in result:
                    write_sealed(folder / RESULT_FILE, {**result, FILES_KEY: files_of(folder)})
                return True
            set_aside(*fault, "the run is made again", along=[folder / RESULT_FILE])
            return False

    def has_state(self, fingerprint: str) -> bool:
        """Returns whether the store has saved state from which an interrupted run can continue."""
        folder = self.folder(fingerprint)
        return any((folder / name).is_file() for name in ("state.safetensors", DONE_FILE))

    def module_file(self, fingerprint: str) -> Path:
        return self.folder(fingerprint) / MODULE_FILE

    def module(self, fingerprint: str) -> ModuleArtefact:
        """Loads the module of a run.

        Raises:
            ModuleFileError: the file is missing or damaged, or is the module of another run.
        """
        return ModuleFile(self.module_file(fingerprint), run=fingerprint).load()

    def checkpoint(self, fingerprint: str) -> Path:
        return self.folder(fingerprint) / CHECKPOINT_FOLDER

    def result(self, fingerprint: str) -> dict[str, Any]:
        """Returns the content of `result.json`; empty if the run is not trained. A damaged file is set aside."""
        path, remedy = self.folder(fingerprint) / RESULT_FILE, "the run is made again"
        return self._parsed.content(path, lambda: self._read(fingerprint, path.name, check_result, remedy))

    def evaluations(self, fingerprint: str) -> dict[str, dict[str, Any]]:
        """Returns key -> record for the finished evaluations of the run's module; records contain the identity.

        Of a damaged file, a copy is kept, and the sound records are written again.
        """
        path, name = self.folder(fingerprint) / EVALUATION_FILE, self.folder(fingerprint).name

        def read() -> tuple[dict[str, dict[str, Any]], str | None]:
            return sound_evaluations(self._read(fingerprint, EVALUATION_FILE, None, _EVALUATED_AGAIN), name)

        sound, fault = self._parsed.content(path, read, is_sound=lambda content: content[1] is None)
        if fault is None:
            return sound
        with self.lock_if_free(fingerprint) as is_mine:
            if not is_mine:
                report(path, f"{fault}; another process works on the run")
                return sound
            sound, fault = read()
            if fault is not None:
                set_aside(path, fault, _EVALUATED_AGAIN)
                if sound and not path.exists():
                    self._write_evaluations(fingerprint, sound)
        return sound

    def add_evaluations(self, fingerprint: str, records: dict[str, dict[str, Any]]) -> None:
        merged = {**self.evaluations(fingerprint), **{k: {"finished": _now(), **one} for k, one in records.items()}}
        self._forget_failure(fingerprint)
        self._write_evaluations(fingerprint, merged)

    def predictions_file(self, fingerprint: str, key: str) -> Path:
        """Returns the file with the predictions of an evaluation, which exists only if they were kept."""
        return self.folder(fingerprint) / PREDICTIONS_FOLDER / f"{key}.jsonl"

    def keep_predictions(self, fingerprint: str, key: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes the predictions of an evaluation, a JSON object for each example."""
        file = self.predictions_file(fingerprint, key)
        file.parent.mkdir(exist_ok=True)
        with atomic_text(file) as lines:
            for record in records:
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _write_evaluations(self, fingerprint: str, records: Mapping[str, Mapping[str, Any]]) -> None:
        folder = self.folder(fingerprint)
        write_json(folder / EVALUATION_FILE, {key: sealed(record, folder.name, key) for key, record in records.items()})

    def metrics(self, fingerprint: str) -> list[dict[str, Any]]:
        """Returns the metric records so far, each with phase and step, without a last line that is incomplete.

        Damaged records are left out. If records of a finished run are damaged or missing, the file is set aside, and
        the run has no records any more: part of a curve could be taken for the whole.
        """
        file = self.folder(fingerprint) / METRICS_FILE
        try:
            records, fault = sound_metrics(file.read_bytes(), file.parent.name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            records, fault = [], f"it cannot be read ({error.strerror})"
        manifest = self.manifest(fingerprint)
        if fault is None and len(records) < manifest.get(_RECORDS_KEY, 0):
            fault = f"it has {len(records)} of {manifest[_RECORDS_KEY]} records"
        if fault is None:
            return records
        if not manifest:
            report(file, f"{fault}; these records are left out")
            return records
        with self.lock_if_free(fingerprint) as is_mine:
            if is_mine:
                set_aside(file, fault, "the run has no curves any more; its scores do not depend on them")
            else:
                report(file, f"{fault}; another process works on the run")
        return []

    def failure(self, fingerprint: str) -> str | None:
        """Returns why the run failed at its last attempt; None if it did not."""
        return self._read(fingerprint, _FAILURE_FILE, check_failure, "the reason of the failure is lost").get("reason")

    def traceback_file(self, fingerprint: str) -> Path:
        """Returns the file for the traceback of the run's last programming error."""
        return self.folder(fingerprint) / _TRACEBACK_FILE

    def record_failure(self, fingerprint: str, reason: str) -> None:
        folder = self.folder(fingerprint)
        if folder.is_dir():
            write_sealed(folder / _FAILURE_FILE, {"reason": reason, "when": _now()})

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
        hub_modules: Mapping[str, str] | None = None,
        late: bool = False,
    ) -> None:
        """Writes the manifest: identity, whole config, versions, machine and dependencies of the run.

        Args:
            fingerprint, config, identity, kind, depends_on: of the run.
            reading: key of a source -> what was noticed while it was read; None: nothing is known.
            hub_modules: role -> ORG/NAME@COMMIT of each module from the hub with which the run was trained.
            late: the process that trained the run was killed before it wrote the manifest, so another one writes it,
                whose versions and machine may differ.
        """
        folder = self.folder(fingerprint)
        self._forget_failure(fingerprint)
        manifest = {
            "fingerprint": fingerprint,
            "kind": kind,
            "identity": identity,
            "config": recorded(config),
            "depends_on": depends_on,
            "finished": _now(),
            "seconds": self.result(fingerprint)["training"]["seconds"],
            _RECORDS_KEY: len(self.metrics(fingerprint)),
            "versions": _versions(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
            "threads": torch.get_num_threads(),
            "commit": _commit(),
            **({"reading": dict(reading)} if reading else {}),
            **({"hub_modules": dict(hub_modules)} if hub_modules else {}),
            **({"recorded_late": True} if late else {}),
        }
        write_sealed(folder / MANIFEST_FILE, manifest)

    def lacks_manifest(self, fingerprint: str) -> bool:
        """Returns whether the run is trained but has no manifest, because its process was killed before the end."""
        return self.is_trained(fingerprint) and not self.manifest(fingerprint)

    def manifest(self, fingerprint: str) -> dict[str, Any]:
        """Returns the manifest of a run; empty if there is none. A damaged file is set aside."""
        remedy = "it is written again when a command needs the run"
        return self._read(fingerprint, MANIFEST_FILE, check_manifest, remedy)

    def finished(self) -> dict[str, dict[str, Any]]:
        """Returns name of the folder -> facts about a run with a manifest, for all such runs; see `run_index`.

        The facts are `fingerprint`, `kind`, `seconds`, `version`, `commit` and `finished` of the manifest, and those of
        `comparable` about its identity, if that has the present format.
        """
        return self._index.facts(MANIFEST_FILE)

    def _manifest_facts(self, name: str) -> tuple[dict[str, Any] | None, bool]:
        manifest = self.manifest(name)
        if not manifest:
            return None, False
        identity = manifest.get("identity") or {}
        is_present = "code" in identity
        return {
            "fingerprint": manifest.get("fingerprint"),
            "kind": kind_with_debug(str(manifest.get("kind")), manifest.get("config")),
            "seconds": manifest.get("seconds", 0.0),
            "version": str(manifest.get("versions", {}).get("xlt", "of unknown version")),
            "commit": manifest.get("commit"),
            "finished": str(manifest.get("finished", "")),
            **(comparable(identity) if is_present else {}),
        }, is_present

    def _evaluation_facts(self, name: str) -> tuple[dict[str, Any] | None, bool]:
        return self._evaluation_time(name) or None, True

    def seconds_of_kinds(self) -> dict[str, float]:
        """Returns kind -> median training time, in seconds, of past runs of the kind."""
        return _medians((facts["kind"], facts["seconds"]) for facts in self.finished().values())

    def record_evaluation_time(self, fingerprint: str, kind: str, evaluations: int, seconds: float) -> None:
        """Records the time that evaluations of a run took, with loading the model; `kind` is as in the manifest."""
        file = self.folder(fingerprint) / _EVALUATION_TIME_FILE
        before = self._evaluation_time(fingerprint)
        evaluations += before.get("evaluations", 0)
        write_sealed(file, {"kind": kind, "evaluations": evaluations, "seconds": seconds + before.get("seconds", 0.0)})

    def seconds_of_evaluations(self) -> dict[str, float]:
        """Returns kind -> median time, in seconds, of one evaluation of past runs of the kind."""
        facts, runs = self._index.facts(_EVALUATION_TIME_FILE), self.finished()
        kinds = {name: runs.get(name, one).get("kind") for name, one in facts.items()}
        return _medians((str(kinds[name]), one["seconds"] / one["evaluations"]) for name, one in facts.items())

    def _evaluation_time(self, fingerprint: str) -> dict[str, Any]:
        return self._read(fingerprint, _EVALUATION_TIME_FILE, check_evaluation_time, "these times are not counted")

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
        with held(file):
            self._held.add(file)
            try:
                yield
            finally:
                self._held.discard(file)

    def remove_left_overs(self, fingerprints: Iterable[str]) -> None:
        """Removes temporary files that killed processes have left.

        They are looked for in the folders of runs that somebody worked on when he was killed, in those of the runs
        given, and in the folders of the whole store: the cache, tables and sweeps.

        Args:
            fingerprints: of runs.
        """
        locks = self.runs / ".locks"
        folders = {self.root, self.runs, locks, self.root / "cache", self.root / "tables"}
        folders |= {path for path in (self.root / "cache").rglob("*") if path.is_dir()}
        folders |= {self.folder(fingerprint) for fingerprint in fingerprints}
        folders |= {path for path in (self.root / "sweeps").glob("*") if path.is_dir()}
        for file in abandoned(locks):
            with self.lock_if_free(file.stem) as is_mine:
                if is_mine:
                    remove_left_overs(self.folder(file.stem))
        for folder in folders:
            remove_left_overs(folder)

    @contextmanager
    def lock_if_free(self, fingerprint: str) -> Iterator[bool]:
        """Holds the run's lock within a `with` block if nobody else holds it; yields whether it does."""
        file = self._lock_file(fingerprint)
        if file in self._held:
            yield True
            return
        lock = FileLock(str(file), timeout=0)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except (OSError, Timeout):  # `Timeout` is an OSError; the store may be read-only
            yield False
            return
        self._held.add(file)
        try:
            note_holder(file)
            yield True
        finally:
            forget_holder(file)
            self._held.discard(file)
            lock.release()

    def _read(
        self, fingerprint: str, name: str, check: Callable[[Mapping[str, Any], str], None] | None, remedy: str
    ) -> dict[str, Any]:
        """Reads a JSON object of a run; returns an empty one if there is none.

        A damaged file counts as none and is set aside, unless another process works on the run.

        Args:
            fingerprint: of the run, or its first digits.
            name: of the file.
            check: checks the content; None: only the form is checked.
            remedy: what happens after a damaged file was set aside, for the user.
        """
        path = self.folder(fingerprint) / name

        def read() -> dict[str, Any]:
            content = read_sealed(path)
            if content and check is not None:
                check(content, path.parent.name)
            return content

        try:
            return read()
        except DamagedFileError as error:
            with self.lock_if_free(fingerprint) as is_mine:
                if not is_mine:
                    report(path, f"{error}; it stays where it is, because another process works on the run")
                    return {}
                try:  # another process may have written it meanwhile
                    return read()
                except DamagedFileError as still:
                    set_aside(path, str(still), remedy)
                    return {}


def _is_run(name: str) -> bool:
    """Returns whether a folder of this name belongs to a run; folders with other names are no runs."""
    return _FOLDER_NAME.fullmatch(name) is not None


def _medians(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Returns kind -> median of its values; of two in the middle, the larger."""
    by_kind: dict[str, list[float]] = {}
    for kind, value in values:
        by_kind.setdefault(kind, []).append(value)
    return {kind: sorted(times)[len(times) // 2] for kind, times in by_kind.items()}


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
