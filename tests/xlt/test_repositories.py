"""Modules by the names of repositories: which version is used, from the cache alone, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub_cache import HubCache
from xlt.errors import UsageError
from xlt.repositories import forget_versions, is_repository, module_path, pinned_name, published_folder

MODULE = "module.safetensors"


def test_a_repository_is_told_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "here").write_bytes(b"")
    assert is_repository("org/name") and is_repository("org/name@v1.0") and is_repository("org/name@pr/1")
    for name in ("org/here", "name", "a/b/c", "/org/name", "runs/fao.safetensors", "org/pytorch_diff.bin"):
        assert not is_repository(name), name
    assert module_path("runs/fao.safetensors") == Path("runs/fao.safetensors")


def test_a_branch_a_tag_and_a_commit_name_a_version(hub_cache: HubCache) -> None:
    old = hub_cache.add("org/tagger", {MODULE: b"old"}, "v1")
    new = hub_cache.add("org/tagger", {MODULE: b"new"})
    for name, commit, content in (
        ("org/tagger", new, b"new"),
        ("org/tagger@v1", old, b"old"),
        (f"org/tagger@{old}", old, b"old"),
    ):
        path = module_path(name)
        assert path.read_bytes() == content and pinned_name(path) == f"org/tagger@{commit}"
    assert pinned_name(Path("runs/module.safetensors")) is None


def test_a_branch_that_moves_counts_in_the_next_command(hub_cache: HubCache) -> None:
    hub_cache.add("org/tagger", {MODULE: b"old"})
    assert module_path("org/tagger").read_bytes() == b"old"
    hub_cache.add("org/tagger", {MODULE: b"new"})
    assert module_path("org/tagger").read_bytes() == b"old"
    forget_versions()
    assert module_path("org/tagger").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("files", "facts"),
    [
        ({}, ["not in the cache", "offline"]),
        ({"README.md": b"x"}, ["not in the cache", MODULE]),
        ({"pytorch_diff.bin": b"x"}, ["another library", "xlt import"]),
        ({"adapter_config.json": b"{}"}, ["another library", "xlt import"]),
    ],
)
def test_what_is_no_module_is_refused_in_a_line(files: dict[str, bytes], facts: list[str], hub_cache: HubCache) -> None:
    if files:
        hub_cache.add("org/name", files)
    with pytest.raises(UsageError) as refused:
        module_path("org/name")
    (line,) = refused.value.lines
    assert line.startswith("org/name: ") and "\n" not in line and all(fact in line for fact in facts)


def test_the_files_of_a_published_module_are_of_one_commit(hub_cache: HubCache) -> None:
    hub_cache.add("org/sft", {"pytorch_diff.bin": b"x"})
    assert sorted(file.name for file in published_folder("org/sft").iterdir()) == ["pytorch_diff.bin"]
    old = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"old"}
    commit = hub_cache.add("org/lora", old, "v1")
    hub_cache.add("org/lora", {**old, "adapter_model.safetensors": b"new"})
    folder = published_folder("org/lora@v1")
    assert folder.name == commit and (folder / "adapter_model.safetensors").read_bytes() == b"old"
    hub_cache.add("org/half", {"adapter_config.json": b"{}"})
    for name, fact in (("org/half", "adapter_model.safetensors"), ("org/absent", "pytorch_diff.bin")):
        with pytest.raises(UsageError, match=f"{name}: .*{fact}"):
            published_folder(name)
