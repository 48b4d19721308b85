"""What a command has found about data is not read again by a later one, unless it depends on something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from xlt.compose import checked, compose, hydra_ready
from xlt.data.examples import Example
from xlt.data.sources import read_source
from xlt.engine.build import build_task
from xlt.plan import checked_data
from xlt.plan.checked_data import CheckedData


@pytest.fixture
def data(tmp_path: Path, tiny_bert: Path) -> Iterator[Callable[..., CheckedData]]:
    """Data of a run that learns a text of three lines, and is evaluated on two others."""
    (tmp_path / "learned.txt").write_text("satu dua tiga empat\nlima enam tujuh\nyang lain sama sekali\n")
    (tmp_path / "evaluated.txt").write_text("Yang lain: sama sekali.\nyang lain lagi\n")

    def made(*words: str) -> CheckedData:
        text, other = tmp_path / "learned.txt", tmp_path / "evaluated.txt"
        overrides = [
            *("experiment=language", "language=ind", "task=mlm_lines", "data.held_out_fraction=0.25"),
            *(f"data.sources.text.path={text}", "+source@data.evaluation.x=mono", f"data.evaluation.x.path={other}"),
            *("data.evaluation.x.split=test", f"model.path={tiny_bert}", f"data_dir={tmp_path}", "data.leaks=allow"),
            *(f"output_dir={tmp_path / 'outputs'}", "task.max_length=16", *words),
        ]
        config = checked(compose(overrides))
        return CheckedData(config, build_task(config.task))

    with hydra_ready():
        yield made


def test_a_later_command_looks_for_leaks_again_only_if_data_or_code_is_another(
    data: Callable[..., CheckedData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outputs" / "cache").mkdir(parents=True)
    read: list[str] = []

    def counted(name: str, *others: Any) -> Iterator[Example]:
        read.append(name)
        return read_source(name, *others)

    monkeypatch.setattr("xlt.data.selection.read_source", counted)

    def leaks(*words: str) -> tuple[int, bool]:
        """Returns the number of faults, and whether anything was read."""
        for name in ("plan.checked_data._FOUND", "engine.run_data._APART"):
            monkeypatch.setattr(f"xlt.{name}", set())  # as in a new process
        read.clear()
        run = data(*words)
        return len(run.leaks([("data.sources", run)])), bool(read)

    assert leaks() == leaks() == (1, True)  # a fault is found again
    (tmp_path / "evaluated.txt").write_text("lain\n", encoding="utf-8")
    assert [leaks(), leaks()] == [(0, True), (0, False)]
    assert [leaks("seed=2"), leaks("seed=2")] == [(0, True), (0, False)]  # another seed holds out other lines
    monkeypatch.setattr(checked_data, "_LEAKS", ("xlt.data.leaks.leak_fault",))
    assert leaks() == (0, True)  # other code may find what this did not
    (tmp_path / "learned.txt").write_text("satu dua tiga empat\nlain sama sekali ini\n", encoding="utf-8")
    assert [leaks(), leaks()] == [(0, True), (0, False)]
    (tmp_path / "evaluated.txt").write_text("lain\nLain sama sekali ini!\n", encoding="utf-8")
    assert leaks() == (1, True)


def test_without_a_cache_nothing_is_written(data: Callable[..., CheckedData], tmp_path: Path) -> None:
    run = data("data.sources.text.cap=2")
    run.leaks([("data.sources", run)])
    assert not (tmp_path / "outputs").exists()
