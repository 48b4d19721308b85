"""A plan asks the store about all of its runs once, and reads only the files that are new."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from xlt.data.sources import digest
from xlt.files import write_sealed
from xlt.plan import store as store_module
from xlt.plan.other_code import OtherCode
from xlt.plan.run_index import INDEX_FILE, comparable
from xlt.plan.store import RunStore


def _identity(seed: int, code: str = "old", **more: Any) -> dict[str, Any]:
    return {"settings": {"seed": seed}, "code": {"xlt.methods.mine": code}, **more}


def _finish(
    store: RunStore,
    identity: dict[str, Any],
    seconds: float = 1.0,
    kind: str = "pos",
    day: int = 1,
    config: dict[str, Any] | None = None,
) -> str:
    fingerprint = digest(identity)
    folder = store.folder(fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"fingerprint": fingerprint, "kind": kind, "identity": identity, "config": config or {}, "depends_on": {}}
    facts |= {"finished": f"2026-01-0{day}", "seconds": seconds, "versions": {"xlt": "1"}, "commit": None}
    write_sealed(folder / "manifest.json", facts)
    write_sealed(folder / "result.json", {"fingerprint": fingerprint, "training": {"seconds": seconds}})
    write_sealed(folder / "evaluation_time.json", {"kind": kind, "evaluations": 2, "seconds": seconds})
    return fingerprint


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files of runs that were read."""
    names: list[str] = []
    original = store_module.read_sealed

    def counted(path: Path) -> dict[str, Any]:
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(store_module, "read_sealed", counted)
    return names


def test_medians_are_of_every_kind_and_each_file_is_read_once_for_all_commands(
    tmp_path: Path, reads: list[str]
) -> None:
    store = RunStore(tmp_path)
    for seed, seconds in enumerate((1.0, 5.0, 9.0)):
        _finish(store, _identity(seed), seconds)
    _finish(store, _identity(7), 100.0, kind="ner")
    assert store.seconds_of_kinds() == {"pos": 5.0, "ner": 100.0}
    assert store.seconds_of_evaluations() == {"pos": 2.5, "ner": 50.0}
    assert sorted(set(reads)) == ["evaluation_time.json", "manifest.json"] and len(reads) == 8
    for again in (store, RunStore(tmp_path)):
        assert again.seconds_of_kinds() == {"pos": 5.0, "ner": 100.0}
        assert again.seconds_of_evaluations() == {"pos": 2.5, "ner": 50.0}
    assert len(reads) == 8 and len(pickle.dumps(store)) < 2000  # a worker gets no index
    assert pickle.loads(pickle.dumps(store)).seconds_of_kinds() == store.seconds_of_kinds()
    _finish(store, _identity(0), 6.0)  # a file that changes is read again, and only this one
    assert RunStore(tmp_path).seconds_of_kinds()["pos"] == 6.0 and len(reads) == 9


def test_a_result_is_read_once_by_a_plan_that_asks_again_and_again(tmp_path: Path, reads: list[str]) -> None:
    store = RunStore(tmp_path)
    fingerprints = [_finish(store, _identity(seed)) for seed in range(3)]
    for _ in range(3):
        assert all(store.is_trained(one) and not store.evaluations(one) for one in fingerprints)
    assert reads.count("result.json") == 3
    write_sealed(store.folder(fingerprints[1]) / "result.json", {"training": {"seconds": 8.0}})
    assert store.result(fingerprints[1]) == {"training": {"seconds": 8.0}} and reads.count("result.json") == 4
    assert len(pickle.dumps(store)) < 2000


def test_runs_with_debug_are_a_kind_of_their_own(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    _finish(store, _identity(1), 60.0, config={"choices": {"debug": "none"}})
    for seed, choice in enumerate(("fast", "fast", "overfit"), start=2):  # those of earlier versions have no such kind
        _finish(store, _identity(seed), 1.0, config={"choices": {"debug": choice}})
    _finish(store, _identity(5), 2.0, "debug=fast/pos", config={"choices": {"debug": "fast"}})
    kinds = {"pos": 60.0, "debug=fast/pos": 1.0, "debug=overfit/pos": 1.0}
    assert store.seconds_of_kinds() == kinds
    assert store.seconds_of_evaluations() == {kind: seconds / 2 for kind, seconds in kinds.items()}


def test_a_damaged_index_is_built_again_and_a_damaged_manifest_does_not_count(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    names = [_finish(store, _identity(seed), float(seed)) for seed in range(3)]
    whole = store.finished()
    assert len(whole) == 3
    index = store.runs / INDEX_FILE
    text = index.read_text(encoding="utf-8")
    for damaged in ("", "[]", "{}", text[: len(text) // 2], text.replace('"seconds": 2.0', '"seconds": 3.0')):
        index.write_text(damaged, encoding="utf-8")
        assert RunStore(tmp_path).finished() == whole
    (store.folder(names[0]) / "manifest.json").write_text("garbage", encoding="utf-8")
    assert RunStore(tmp_path).finished().keys() == {store.folder(name).name for name in names[1:]}


def test_the_latest_run_that_differs_only_in_code_is_found_without_reading_the_others(
    tmp_path: Path, reads: list[str]
) -> None:
    store = RunStore(tmp_path)
    base = _finish(store, _identity(1, model={}))
    for seed in range(20, 40):
        _finish(store, _identity(seed))
    for day, code in ((3, "old"), (2, "older")):
        _finish(store, _identity(1, code, model={"run": base}), day=day)
    store.finished()
    new_base = _identity(1, "new", model={})
    planned: Any = {digest(new_base): type("Planned", (), {"identity": new_base})()}
    reads.clear()
    found = OtherCode(RunStore(tmp_path), planned).run_like(_identity(1, "new", model={"run": digest(new_base)}))
    assert (
        found is not None and found.finished == "2026-01-03" and found.identity["code"] == {"xlt.methods.mine": "old"}
    )
    assert len(reads) <= 4
    assert OtherCode(RunStore(tmp_path), planned).run_like(_identity(99, "new")) is None
    assert OtherCode(RunStore(tmp_path), planned).run_like(_identity(1, "new", model={"run": "f" * 32})) is None


def test_identities_are_compared_without_code_and_with_the_order_of_sources_apart() -> None:
    run = "0123456789abcdef" * 2
    one = _identity(1, data={"sources": {"a": run, "b": f"{run}/eng"}, "order": ["a", "b"]})
    facts = comparable(one)
    assert facts["mentions"] == [run, run] and json.dumps(facts).count(run) == 2
    assert comparable({**one, "code": {"other": "x"}}) == facts
    turned = comparable({**one, "data": {**one["data"], "order": ["b", "a"]}})
    assert turned["order"] != facts["order"] and {**turned, "order": 0} == {**facts, "order": 0}
    for other in ({"sources": {"a": run, "b": f"{run}/deu"}}, {"sources": {"a": run, "c": f"{run}/eng"}}):
        assert comparable(_identity(1, data={**other, "order": ["a", "b"]}))["shape"] != facts["shape"]
