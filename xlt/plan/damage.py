"""Finds out which files in a run's folder are damaged, or are not those that the run left.

A run is named here by the name of its folder, the first digits of its fingerprint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlt.data.transforms.translation import TRANSLATED_FILE
from xlt.engine.run import CHECKPOINT_FOLDER, MODULE_FILE
from xlt.files import DamagedFileError, digests_of, unsealed
from xlt.modules import ModuleFileError, load_module

FILES_KEY = "files"
"""Key of a result: name -> digest of each file that the run left; results of earlier versions lack it."""


def check_result(result: Mapping[str, Any], run: str) -> None:
    """Checks the content of a `result.json`.

    Raises:
        DamagedFileError: it is that of another run, or lacks what every result has.
    """
    _check_owner(result, run)
    if not isinstance(result.get("training"), dict):
        raise DamagedFileError("it has no facts about training")
    if not isinstance(result.get(FILES_KEY, {}), dict):
        raise DamagedFileError("its digests of files are no JSON object")


def check_manifest(manifest: Mapping[str, Any], run: str) -> None:
    """Checks the content of a `manifest.json`; raises as `check_result` does."""
    _check_owner(manifest, run)
    if not isinstance(manifest.get("fingerprint"), str) or not isinstance(manifest.get("identity"), dict):
        raise DamagedFileError("it does not say which run it is of")
    if not _is_number(manifest.get("seconds", 0.0)):
        raise DamagedFileError("its seconds are no number")


def check_evaluation_time(record: Mapping[str, Any], run: str) -> None:
    """Checks the content of an `evaluation_time.json`; raises as `check_result` does."""
    count = record.get("evaluations")
    if not _is_number(record.get("seconds")) or not isinstance(count, int) or count < 1:
        raise DamagedFileError("it does not say how long the evaluations took")


def check_failure(record: Mapping[str, Any], run: str) -> None:
    """Checks the content of a `failure.json`; raises as `check_result` does."""
    if not isinstance(record.get("reason"), str):
        raise DamagedFileError("it has no reason")


def sound_evaluations(records: Mapping[str, Any], run: str) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Separates the sound records of an `evaluation.json` from the others.

    Returns:
        Key -> sound record without its checksum; and what is wrong with the others, None if all are sound.
    """
    sound, fault = {}, None
    for key, record in records.items():
        try:
            content = unsealed(record, run, key)
            metrics = content.get("metrics")
            if not isinstance(metrics, dict) or not all(_is_number(value) for value in metrics.values()):
                raise DamagedFileError("an entry has no metrics")
            identity = content.get("identity", {})
            modules = identity.get("modules", {}) if isinstance(identity, dict) else None
            if not isinstance(modules, dict) or not str(modules.get("task", run)).startswith(run):
                raise DamagedFileError("an entry is an evaluation of another run's module")
            sound[key] = content
        except DamagedFileError as error:
            fault = str(error)
    return sound, fault


def sound_metrics(raw: bytes, run: str) -> tuple[list[dict[str, Any]], str | None]:
    """Separates the sound records of a `metrics.jsonl` from the others.

    A last line without an end is left out silently, because the run may be writing it.

    Returns:
        The sound records without their checksums; and what is wrong with the others, None if all are sound.
    """
    sound, fault = [], None
    for number, line in enumerate(raw.split(b"\n")[:-1], start=1):
        try:
            record = unsealed(json.loads(line.decode("utf-8")), run)
            numbers = {name: value for name, value in record.items() if name not in ("phase", "step")}
            if not isinstance(record.get("phase"), str) or not isinstance(record.get("step"), int):
                raise DamagedFileError("no phase or step")
            if not all(value is None or _is_number(value) for value in numbers.values()):
                raise DamagedFileError("a value is no number")
            sound.append(record)
        except (ValueError, RecursionError):  # a DamagedFileError is a ValueError
            fault = fault or f"line {number} is damaged or is a record of another run"
    return sound, fault


def fault_of_files(folder: Path, fingerprint: str, result: Mapping[str, Any]) -> tuple[Path, str] | None:
    """Compares the files that a trained run left (module, checkpoint, translation) with the digests in its result.

    Without digests, the fingerprint in the module's header is compared.

    Returns:
        The first file that does not fit, and what is wrong with it; None if all fit.
    """
    expected = result.get(FILES_KEY)
    if expected is None:
        return _fault_without_digests(folder, fingerprint, result)
    try:
        found = files_of(folder)
    except OSError as error:
        return Path(error.filename or folder), f"it cannot be read ({error.strerror or error})"
    for name in sorted({*expected, *found}):
        part = folder / Path(name).parts[0]  # of a checkpoint, the whole folder
        if name not in found:
            return part, f"{'it' if part.name == name else name} is missing"
        if name not in expected:
            return part, f"the run did not write {'it' if part.name == name else name}"
        if found[name] != expected[name]:
            of = "its content" if part.name == name else f"the content of {name}"
            return part, f"{of} is not what the run wrote"
    return None


def files_of(folder: Path) -> dict[str, str]:
    """Returns name -> digest, for all files in a run's folder that other runs and evaluations may use."""
    return digests_of(folder, (MODULE_FILE, CHECKPOINT_FOLDER, TRANSLATED_FILE))


def _fault_without_digests(folder: Path, fingerprint: str, result: Mapping[str, Any]) -> tuple[Path, str] | None:
    translated, module = folder / TRANSLATED_FILE, folder / MODULE_FILE
    if "examples" in result:  # a translation
        return None if translated.is_file() else (translated, "it is missing")
    try:
        made_by = load_module(module).header.fingerprint
    except ModuleFileError as error:
        return module, error.fault
    if made_by is None or not made_by.startswith(folder.name):
        return module, f"it is the module of run {made_by}, not of {fingerprint}"
    return None


def _check_owner(content: Mapping[str, Any], run: str) -> None:
    owner = content.get("fingerprint", run)
    if not isinstance(owner, str) or not owner.startswith(run):
        raise DamagedFileError(f"it is of run {owner!r}, not of {run}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
