"""Digests of code are taken from a store's cache only if no file of the code has changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import xlt
from xlt import code_state
from xlt.plan import kept_digests
from xlt.plan.kept_digests import code_digests, digests_kept_in
from xlt.source_code import SourceCode

_ROOTS = ["xlt.methods.bitfit.BitFit"]


@pytest.fixture
def digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[dict[str, str], bool]]]:
    """Asks as a new process does, which begins later; also returns whether the code was followed."""
    followed: list[Any] = []

    class Counted(SourceCode):
        def digests(self, *request: Any) -> dict[str, str]:
            followed.append(request)
            return super().digests(*request)

    monkeypatch.setattr(kept_digests, "installed", Counted)
    (tmp_path / "cache").mkdir()

    def new(*without: str, began_ns: int | None = None) -> tuple[dict[str, str], bool]:
        monkeypatch.setattr(xlt, "LOADED_NS", time.time_ns() + 10**10 if began_ns is None else began_ns)
        code_state._own_code_state.cache_clear()
        followed.clear()
        with digests_kept_in(tmp_path / "cache"):
            found = code_digests(_ROOTS, without)
        return found, bool(followed)

    yield new
    code_state._own_code_state.cache_clear()


def test_the_same_code_is_followed_once_and_other_requests_for_themselves(
    digests: Callable[..., tuple[dict[str, str], bool]],
) -> None:
    fresh = SourceCode().digests(_ROOTS)
    assert [digests(), digests()] == [(fresh, True), (fresh, False)]
    other, follows = digests("xlt.models")
    assert other != fresh and follows
    assert [digests("xlt.models"), digests()] == [(other, False), (fresh, False)]


@pytest.mark.parametrize("package", ["methods/bitfit.py", "delta_write.py"])
def test_changed_code_of_xlt_or_its_kernels_is_followed_afresh(
    digests: Callable[..., tuple[dict[str, str], bool]], monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    fresh, _ = digests()
    original = code_state.files_in

    def changed(*where: Any) -> Iterator[tuple[Any, ...]]:
        for path, *others in original(*where):
            yield path, *(number + str(path).endswith(package) for number in others)

    monkeypatch.setattr(code_state, "files_in", changed)
    assert [digests(), digests()] == [(fresh, True), (fresh, False)]


def test_code_that_changed_since_the_process_began_is_neither_read_nor_kept(
    digests: Callable[..., tuple[dict[str, str], bool]], tmp_path: Path
) -> None:
    changed = Path(code_state.__file__).stat().st_ctime_ns
    assert digests(began_ns=changed)[1] and not (tmp_path / "cache" / "code.json").exists()
    digests()
    assert digests(began_ns=changed)[1]


def test_a_damaged_file_or_a_plug_in_makes_it_be_followed_afresh(
    digests: Callable[..., tuple[dict[str, str], bool]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, _ = digests()
    file = tmp_path / "cache" / "code.json"
    value = next(iter(fresh.values()))
    for damaged in (file.read_text().replace(value, "0" * len(value)), "{", ""):
        file.write_text(damaged)
        assert digests() == (fresh, True)
    (tmp_path / "plug-in" / "methods").mkdir(parents=True)
    monkeypatch.setenv("XLT_PLUGINS", str(tmp_path / "plug-in"))
    assert digests()[1] and digests()[1]
