"""`xlt merge`: one module from several, which is then used as any other."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from tests.conftest import sentences
from xlt.commands.merge import main
from xlt.modules import Entries, SparseDelta, load_module
from xlt.use.predict import PredictSettings, predict


def merged(*words: object) -> int:
    try:
        main([str(word) for word in words])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def annotated(folder: Path, task: Path, language: Path) -> str:
    text = "".join(" ".join(example.words or ()) + "\n" for example in sentences("eng", 20))
    (folder / "in.txt").write_text(text)
    settings = PredictSettings([str(task)], str(folder / "in.txt"), str(folder / "out.jsonl"), {"eng": str(language)},
                               language="eng", quiet=True, device="cpu")  # fmt: skip
    (folder / "out.jsonl").unlink(missing_ok=True)
    predict(settings)
    return (folder / "out.jsonl").read_text()


def test_a_merged_module_is_used_as_any_other(
    modules: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "both.safetensors"
    assert merged("average", modules["eng"], modules["fao"], "--output", out) == 0
    assert "both.safetensors" in capsys.readouterr().out
    module, eng, fao = (load_module(path) for path in (out, modules["eng"], modules["fao"]))
    assert isinstance(module, SparseDelta) and isinstance(eng, SparseDelta) and isinstance(fao, SparseDelta)
    (name,) = module.entries
    expected = (eng.entries[name].values.double() + fao.entries[name].values.double()) / 2
    torch.testing.assert_close(module.entries[name].values.double(), expected, rtol=1e-6, atol=1e-6)
    texts = {annotated(tmp_path, modules["pos"], path) for path in (out, modules["eng"], modules["fao"])}
    assert len(texts) == 3
    # A task module that is merged with another keeps what predict needs to know.
    less = tmp_path / "less.safetensors"
    assert merged("minus", modules["pos"], modules["eng"], "-o", less) == 0
    assert '"upos"' in annotated(tmp_path, less, modules["fao"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["layers", "A", "B", "--first", "1"], "--last: missing; layers needs it"),
        (["average", "A", "B", "--weights", "1,2"], "--weights: not an option of average, which takes none of its own"),
        (["minus", "A"], "minus: takes 2 modules, but 1 are given"),
        (["sum", "A", "B", "--weights", "1,x"], "1,x: must be numbers with commas"),
        (["sum", "A", "B", "--weights", "0,0"], "nothing would be left"),
        (["sum", "A", "B", "--weights", "1"], "1 weights for 2 modules"),
        (["dare", "A", "B", "--drop", "1"], "drop=1.0: must be at least 0 and below 1"),
        (["mean", "A", "B"], "OPERATOR"),
        (["average", "A", "missing.safetensors"], "missing.safetensors"),
        (["average", "POS", "NER"], "unrelated heads cannot be merged"),
    ],
)
def test_what_cannot_be_merged_is_one_line_and_leaves_nothing(
    words: list[str], said: str, modules: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    shared_head: Callable[[str], Path],
) -> None:  # fmt: skip
    files = {"A": modules["eng"], "B": modules["fao"], "POS": modules["pos"], "NER": shared_head("ner")}
    out = tmp_path / "out.safetensors"
    assert merged(*(files.get(word, word) for word in words), "--output", out) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1
    assert not out.exists()


def test_a_file_that_exists_is_not_replaced(
    modules: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "kept.safetensors"
    out.write_text("mine")
    assert merged("sum", modules["eng"], "--output", out) == 2
    assert "exists already" in capsys.readouterr().err and out.read_text() == "mine"
    assert merged("sum", modules["eng"], "--output", tmp_path / "no" / "x.safetensors") == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.fixture
def shared_head(modules: Mapping[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a task module whose head has the name and the size of that of POS, but other values."""

    def make(name: str) -> Path:
        module, pos = load_module(modules[name]), load_module(modules["pos"])
        assert isinstance(module, SparseDelta) and isinstance(pos, SparseDelta)
        module.tensors = {name: tensor + 1 for name, tensor in pos.tensors.items()}
        module.save(tmp_path / "head.safetensors")
        return tmp_path / "head.safetensors"

    return make


def test_what_a_killed_writer_left_beside_the_output_is_removed(modules: Mapping[str, Path], tmp_path: Path) -> None:
    """The names are those that `temporary_path` gives."""
    from xlt.use.export import ExportSettings, export
    from xlt.writers import temporary_path

    names = [temporary_path(tmp_path / name).name for name in ("a.safetensors", "b")]
    dead = [re.sub(r"-\d+-(\d+)-", r"-4194305-\1-", name) for name in names]  # no system has this many processes
    for command in ("merge", "export"):
        (tmp_path / dead[0]).write_text("half")
        (tmp_path / dead[1]).mkdir(exist_ok=True)
        (tmp_path / names[0]).write_text("of a running one")
        if command == "merge":
            assert merged("sum", modules["eng"], "--output", tmp_path / "m.safetensors") == 0
        else:
            export(ExportSettings([str(modules["pos"])], str(tmp_path / "p.safetensors"), to="plain"))
        assert not (tmp_path / dead[0]).exists() and not (tmp_path / dead[1]).exists()
        assert (tmp_path / names[0]).exists()


def test_one_module_given_twice_is_refused(
    modules: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(modules["eng"].read_bytes())
    for second in (modules["eng"], copy):
        assert merged("average", modules["eng"], modules["fao"], second, "-o", tmp_path / "out.safetensors") == 2
        assert f"{second}: the same module as {modules['eng']}" in capsys.readouterr().err
    assert merged("ties", modules["eng"], modules["fao"], "--weights", "0,0", "-o", tmp_path / "out.safetensors") == 2
    assert "nothing would be left" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_a_merged_module_names_the_languages_of_all_and_heads_of_other_labels_are_refused(
    modules: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = load_module(modules["pos"])
    assert isinstance(first, SparseDelta)
    facts = first.header.provenance | {"depends_on": {"start": "0123456789ab"}}
    entries = {name: Entries(one.indices, one.values * 2, one.shape) for name, one in first.entries.items()}
    for name, changes in {
        "eng": {"languages": ["eng"]},
        "deu": {"languages": ["deu", "nld"]},
        "turned": {"labels": facts["labels"][::-1]},
    }.items():
        header = dataclasses.replace(first.header, provenance=facts | changes)
        SparseDelta(header, entries, first.tensors).save(tmp_path / f"{name}.safetensors")
    eng, deu, turned = (tmp_path / f"{name}.safetensors" for name in ("eng", "deu", "turned"))
    out = tmp_path / "out.safetensors"
    assert merged("average", eng, deu, "-o", out) == 0
    assert load_module(out).header.provenance["languages"] == ["deu", "eng", "nld"]
    assert merged("minus", eng, deu, "-o", out, "--replace") == 0
    assert load_module(out).header.provenance["languages"] == ["eng"]
    out.unlink()
    capsys.readouterr()
    assert merged("average", eng, turned, "-o", out) == 2
    assert "different labels" in capsys.readouterr().err and not out.exists()
