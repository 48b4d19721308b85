"""Whatever happens to a file of the store, what is read is right or counts as absent, with a line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from xlt.config import TrackerConfig
from xlt.engine.run import RESULT_FILE, ModuleFile
from xlt.files import sealed, write_json, write_sealed
from xlt.modules import ModuleFileError, ModuleHeader, SparseDelta
from xlt.modules.module_file import content_digest
from xlt.modules.sparse_delta import Entries
from xlt.plan.damage import FILES_KEY, files_of
from xlt.plan.store import EVALUATION_FILE, MANIFEST_FILE, METRICS_FILE, RunStore
from xlt.tracking.wandb_record import WandbRecord

RUN, OTHER = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
TIME_FILE, FAILURE_FILE = "evaluation_time.json", "failure.json"
MODULE, CHECKPOINT, TRANSLATED = "module.safetensors", "checkpoint/model.safetensors", "translated.jsonl"
_OWN = ("result", "evaluations", "metrics", "manifest", "failure")
JSON_FILES = (RESULT_FILE, EVALUATION_FILE, MANIFEST_FILE, METRICS_FILE, TIME_FILE, FAILURE_FILE)
OTHER_TYPES = (b"[]", b"{}", b'"text"', b"1", b"null", b"[[1, 2]]", b'{"a": 1}', b'{"training": 3}', b"\xff\xfe",
               b"[" * 100_000, b'{"checksum": 3}', b"-" + b"9" * 5000)  # fmt: skip


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def _leave(store: RunStore, fingerprint: str, score: float, header: Callable[..., ModuleHeader]) -> Path:
    """Leaves in the store what a run and its evaluations leave."""
    folder = store.folder(fingerprint)
    (folder / "checkpoint").mkdir(parents=True)
    (folder / CHECKPOINT).write_bytes(score.hex().encode())
    (folder / TRANSLATED).write_text(f'{{"text": "{score}"}}\n')
    entries = Entries(torch.tensor([1, 2]), torch.tensor([score, 2.0]), (4,))
    SparseDelta(header(fingerprint=fingerprint), {"backbone.w": entries}).save(folder / MODULE)
    result = {"fingerprint": fingerprint, "metric": "accuracy", "training": {"best/accuracy": score, "seconds": score}}
    write_sealed(folder / RESULT_FILE, {**result, FILES_KEY: files_of(folder)})
    records = [{"phase": "train", "step": step, "loss": score + step} for step in range(4)]
    lines = [json.dumps(sealed(record, folder.name)) + "\n" for record in records]
    (folder / METRICS_FILE).write_text("".join(lines))
    identity = {"code": {}, "settings": {"seed": score}}
    manifest = {"fingerprint": fingerprint, "kind": "tagging", "identity": identity, "seconds": score, "records": 4}
    write_sealed(folder / MANIFEST_FILE, manifest)
    evaluated = {f"{key:032x}": {"source": "eng", "metrics": {"accuracy": score + key}} for key in range(3)}
    store.add_evaluations(fingerprint, evaluated)
    store.record_evaluation_time(fingerprint, "tagging", 3, score)
    store.record_failure(fingerprint, f"reason {score}")
    return folder


@pytest.fixture
def store(tmp_path: Path, module_header: Callable[..., ModuleHeader]) -> RunStore:
    store = RunStore(tmp_path / "outputs")
    for fingerprint, score in ((RUN, 50.0), (OTHER, 75.0)):
        _leave(store, fingerprint, score, module_header)
    return store


def _read(root: Path, fingerprint: str) -> dict[str, Any]:
    """All that commands read of a run, by a store without memory."""
    store = RunStore(root)
    return {
        "sound": store.is_sound(fingerprint),
        "result": store.result(fingerprint),
        "evaluations": store.evaluations(fingerprint),
        "metrics": store.metrics(fingerprint),
        "manifest": store.manifest(fingerprint),
        "failure": store.failure(fingerprint),
        "manifests": {one["fingerprint"]: one for one in store.finished().values()},
        "seconds": store.seconds_of_kinds().get("tagging"),
        "seconds of evaluation": store.seconds_of_evaluations().get("tagging"),
        "lacks manifest": store.lacks_manifest(fingerprint),
        "unfinished": sorted(store.unfinished()),
    }


def damages(data: bytes, other: bytes, bits: int) -> Iterator[tuple[str, bytes]]:
    """Yields a name and the content, for each damage of a file; `other` is the same file of another run."""
    yield "another run's", other
    for tenth in range(10):
        yield f"cut at {tenth}0%", data[: len(data) * tenth // 10]
    for number in range(bits):
        at, bit = divmod(number * 8 * len(data) // bits, 8)
        yield f"bit {bit} of byte {at}", data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
    for of_another_type in OTHER_TYPES:
        yield f"{of_another_type[:20]!r}", of_another_type


def _has_no_more(found: Any, right: Any) -> bool:
    """Whether all that was found is right; a key that a flipped bit made of `checksum` is no number and may stay."""
    if isinstance(right, dict):
        return isinstance(found, dict) and all(
            name not in right or _has_no_more(value, right[name]) for name, value in found.items()
        )
    if isinstance(right, list):
        return all(any(_has_no_more(one, whole) for whole in right) for one in found)
    return found is None or found == right


@pytest.mark.parametrize("name", [*JSON_FILES, MODULE, CHECKPOINT, TRANSLATED])
@pytest.mark.parametrize("bits", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_no_damage_of_a_file_changes_a_number_or_raises(
    name: str, bits: int, store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, kept = store.folder(RUN), store.root / "kept"
    right, others = _read(store.root, RUN), _read(store.root, OTHER)
    assert right["sound"] and not capsys.readouterr().err
    shutil.copytree(folder, kept)
    count = 0
    for what, damaged in damages((folder / name).read_bytes(), (store.folder(OTHER) / name).read_bytes(), bits):
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        (folder / name).write_bytes(damaged)
        found = _read(store.root, RUN)
        lines = capsys.readouterr().err.splitlines()
        assert all(_has_no_more(found[part], right[part]) for part in _OWN), what
        assert found["manifests"][OTHER] == others["manifests"][OTHER], what
        assert len(lines) <= 1 and all(line.startswith(f"xlt: {folder / Path(name).parts[0]}: ") for line in lines), (
            what
        )
        if lines:  # what is damaged is kept
            aside = [file for file in folder.rglob("*") if "damaged" in str(file) and file.is_file()]
            assert any(file.read_bytes() == damaged for file in aside), what
        else:  # a flipped bit made another key of `checksum`, or nothing is lost
            assert all(_has_no_more(right[part], found[part]) for part in _OWN), what
        if name in (MODULE, CHECKPOINT, TRANSLATED):
            assert lines and not found["sound"] and not found["result"], what
        assert {**_read(store.root, RUN), "sound": found["sound"]} == found, what
        assert not capsys.readouterr().err, what
        count += 1
    assert count == 11 + bits + len(OTHER_TYPES)


def test_a_damaged_record_of_an_evaluation_leaves_the_others(store: RunStore) -> None:
    file = store.folder(RUN) / EVALUATION_FILE
    file.write_text(file.read_text().replace("51.0", "61.0"))
    scores = [record["metrics"]["accuracy"] for record in store.evaluations(RUN).values()]
    assert scores == [50.0, 52.0]
    assert [record["metrics"]["accuracy"] for record in RunStore(store.root).evaluations(RUN).values()] == scores


def test_evaluations_of_another_runs_module_are_not_taken_without_checksums_either(store: RunStore) -> None:
    record = {"metrics": {"accuracy": 1.0}, "identity": {"modules": {"task": OTHER}}}
    own = {"metrics": {"accuracy": 2.0}, "identity": {"modules": {"task": RUN}}}
    write_json(store.folder(RUN) / EVALUATION_FILE, {"a": record, "b": own})
    assert store.evaluations(RUN) == {"b": own}


def test_a_finished_run_with_part_of_its_records_has_none(store: RunStore) -> None:
    """The end of a curve that is missing could not be seen."""
    file = store.folder(RUN) / METRICS_FILE
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:3]))
    assert store.metrics(RUN) == [] and not file.exists()
    (store.folder(OTHER) / MANIFEST_FILE).unlink()  # a run that goes on
    file = store.folder(OTHER) / METRICS_FILE
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:3]))
    assert len(store.metrics(OTHER)) == 3 and file.exists()


def test_what_another_process_works_on_is_not_set_aside(store: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    file = store.folder(RUN) / RESULT_FILE
    file.write_text("[]")
    with RunStore(store.root).lock(RUN):
        assert not store.is_trained(RUN) and file.read_text() == "[]"
        assert store.result(RUN) == {} == store.result(RUN)
    assert capsys.readouterr().err.count("\n") == 1  # said once
    with store.lock(RUN):  # this process has the lock
        assert not store.is_trained(RUN) and not file.exists()


def test_files_of_earlier_versions_are_taken_and_their_digests_recorded(
    store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, right = store.folder(RUN), _read(store.root, RUN)
    for name in (RESULT_FILE, MANIFEST_FILE, TIME_FILE):
        content = json.loads((folder / name).read_text())
        del content["checksum"]
        content.pop(FILES_KEY, None)
        content.pop("records", None)
        write_json(folder / name, content)
    records = json.loads((folder / EVALUATION_FILE).read_text())
    records = {key: {name: value for name, value in of.items() if name != "checksum"} for key, of in records.items()}
    write_json(folder / EVALUATION_FILE, records)
    found = _read(store.root, RUN)
    assert found["result"] == right["result"] and found["evaluations"] == right["evaluations"] and found["sound"]
    assert json.loads((folder / RESULT_FILE).read_text())[FILES_KEY] == files_of(folder)
    assert not capsys.readouterr().err
    (folder / CHECKPOINT).write_bytes(b"changed")
    assert not store.is_sound(RUN)


def test_a_module_of_another_run_is_found_out_without_digests_too(store: RunStore) -> None:
    folder = store.folder(RUN)
    write_json(folder / RESULT_FILE, {"fingerprint": RUN, "training": {"seconds": 1.0}})
    shutil.copy(store.folder(OTHER) / MODULE, folder / MODULE)
    assert not store.is_sound(RUN) and not store.is_trained(RUN)
    assert store.is_sound(OTHER)


@pytest.mark.parametrize("change", ["missing", "further", "whole folder"])
def test_a_checkpoint_has_exactly_the_files_that_the_run_wrote(
    change: str, store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store.folder(RUN) / "checkpoint"
    if change == "whole folder":
        shutil.rmtree(folder)
    elif change == "missing":
        (folder / "model.safetensors").unlink()
    else:
        (folder / "pytorch_model.bin").write_bytes(b"")
    assert not store.is_sound(RUN)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line
    assert not store.is_trained(RUN) and not folder.exists()


def test_folders_that_are_no_runs_are_left_alone(store: RunStore) -> None:
    shutil.copytree(store.folder(RUN), store.runs / "copy of mine")
    assert {facts["fingerprint"] for facts in store.finished().values()} == {RUN, OTHER}
    assert (store.runs / "copy of mine" / MANIFEST_FILE).is_file()


def test_only_the_runs_own_module_is_loaded(store: RunStore) -> None:
    assert store.module(RUN).header.fingerprint == RUN
    shutil.copy(store.folder(OTHER) / MODULE, store.folder(RUN) / MODULE)
    with pytest.raises(ModuleFileError, match=f"run {OTHER} made it, not run {RUN}"):
        store.module(RUN)


def test_a_users_module_that_changes_after_planning_is_refused(store: RunStore) -> None:
    path = store.folder(RUN) / MODULE
    file = ModuleFile(path, content=content_digest(path))
    file.load()
    shutil.copy(store.folder(OTHER) / MODULE, path)
    with pytest.raises(ModuleFileError, match="has changed since this was planned"):
        file.load()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"offline": 3}', '{"offline": {"more": 1}}', "\0"])
def test_a_damaged_record_of_what_was_sent_is_set_aside(content: str, tmp_path: Path) -> None:
    tracker = TrackerConfig(
        wandb="offline",
        project="p",
        entity=None,
        group=None,
        artifacts=True,
        tensorboard=False,
        csv=False,
        progress=False,
    )
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "told.json").write_text(content)
    assert WandbRecord.read(tmp_path, tracker) == WandbRecord()
    WandbRecord(trained=True).write(tmp_path, tracker)
    assert WandbRecord.read(tmp_path, tracker) == WandbRecord(trained=True)
    assert (tmp_path / "wandb" / "told.json.damaged").read_text() == content
