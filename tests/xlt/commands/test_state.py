from __future__ import annotations

from pathlib import Path

import pytest

from xlt.commands.state import main, show_state
from xlt.errors import UsageError
from xlt.plan.store import RunStore


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Three runs: one finished, one interrupted, one in the hands of another process."""
    store = RunStore(tmp_path / "outputs")
    for name, files in {"aa": ["result.json"], "bb": ["state.safetensors", "best-dense.safetensors"], "cc": []}.items():
        folder = store.folder(name * 6)
        folder.mkdir(parents=True)
        for file in [*files, "metrics.jsonl"]:
            (folder / file).write_bytes(b"x" * 2_000_000)
    (store.folder("cc" * 6) / "state.safetensors").write_bytes(b"x")
    store.record_failure("bb" * 6, "out of memory")
    return store


def _files(store: RunStore, name: str) -> set[str]:
    return {file.name for file in store.folder(name * 6).iterdir()}


def test_the_state_of_unfinished_runs_is_listed_and_kept(store: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    with store.lock("cc" * 6):
        assert show_state([f"output_dir={store.root}"]) == 0
    listed, total = capsys.readouterr().out.splitlines()
    assert str(store.folder("bb" * 6)) in listed and "4.0 MB" in listed and "out of memory" in listed
    assert "1 unfinished" in total and "--remove" in total
    assert {"state.safetensors", "best-dense.safetensors"} <= _files(store, "bb")


def test_removing_leaves_records_and_what_another_process_is_working_on(store: RunStore) -> None:
    with store.lock("cc" * 6):
        assert show_state([f"output_dir={store.root}", "--remove"]) == 0
    assert _files(store, "bb") == {"metrics.jsonl", "failure.json"}
    assert "state.safetensors" in _files(store, "cc")
    assert _files(store, "aa") == {"result.json", "metrics.jsonl"}


@pytest.mark.parametrize("words", [["outputs"], ["--remove"], ["output_dir=nowhere"]])
def test_wrong_words_are_refused(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        show_state(words)
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
