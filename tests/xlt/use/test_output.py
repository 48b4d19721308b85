"""Every command that writes a file has one rule: it replaces none unless --replace is given, and says so first."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

COMMANDS = {
    "predict": ["predict", "{pos}", "--input", "{folder}/in.txt", "--device", "cpu", "--quiet"],
    "evaluate": ["evaluate", "{pos}", "--input", "{folder}/gold.conllu", "--device", "cpu"],
    "merge": ["merge", "sum", "{eng}", "{fao}"],
    "export": ["export", "{pos}", "--to", "plain"],
    "import": ["import_module", "{folder}/pytorch_diff.bin", "--model", "{base}", "--language", "fao"],
}


@pytest.fixture
def ran(
    modules: Mapping[str, Path], tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """`ran("merge", "--output", file)`: exit code and standard error of a command."""
    import torch

    (tmp_path / "in.txt").write_text("ban kon\n")
    (tmp_path / "gold.conllu").write_text("1\tban\t_\tnoun\t_\t_\t0\t_\t_\t_\n\n")
    name, coded = "bert.encoder.layer.0.output.dense.bias", {"index_steps": [3, 4], "values": torch.tensor([0.5, -1.0])}
    torch.save({"diffs": {name: {**coded, "size": (32,)}}, "abs": {}}, tmp_path / "pytorch_diff.bin")
    places = {**{name: str(path) for name, path in modules.items()}, "folder": str(tmp_path), "base": str(tiny_bert)}

    def run(command: str, *words: object) -> tuple[int, str]:
        name, *given = (word.format(**places) for word in COMMANDS[command])
        main = importlib.import_module(f"xlt.commands.{name}").main
        try:
            main([*given, *map(str, words)])
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_file_is_replaced_only_with_the_option(
    ran: Callable[..., tuple[int, str]], tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    code, said = ran(command, "--output", out)
    assert code == 2 and said == f"xlt: --output={out}: exists already; give another file, or --replace\n"
    assert out.read_text() == "mine"
    assert ran(command, "--output", out, "--replace")[0] == 0
    assert out.read_bytes() != b"mine" and not list(tmp_path.glob("out.jsonl?*"))


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_loaded(
    ran: Callable[..., tuple[int, str]], tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, access = tmp_path / "locked", os.access
    locked.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and access(path, mode))  # root may all
    monkeypatch.setattr("safetensors.safe_open", None)
    code, said = ran(command, "--output", locked / "new")
    assert code == 2 and said == f"xlt: --output={locked}/new: {locked} cannot be written to\n"
    code, said = ran(command, "--output", "/dev/null")
    assert code == 2 and "this is a device or a pipe" in said


def test_folders_are_not_replaced(ran: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    code, said = ran("export", "--to", "transformers", "--output", tmp_path / "full")
    assert code == 2 and "is not an empty folder" in said
    code, said = ran("export", "--to", "transformers", "--replace", "--output", tmp_path / "new")
    assert code == 2 and said.startswith("xlt: --replace: ") and not (tmp_path / "new").exists()


def test_a_killed_prediction_continues_and_replaces_only_with_the_option(
    ran: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.txt").write_text("ban kon\n" * 150)
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    monkeypatch.setattr("xlt.use.annotating._CHUNK", 50)
    from xlt.use import predict as module

    original, calls = module.annotate, []

    def dies(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "annotate", dies)
    assert ran("predict", "--output", out, "--replace")[0] == 130
    assert out.read_text() == "mine" and (tmp_path / "out.jsonl.partial").exists()
    monkeypatch.setattr(module, "annotate", original)
    assert ran("predict", "--output", out)[0] == 2
    assert ran("predict", "--output", out, "--replace")[0] == 0
    assert len(out.read_text().splitlines()) == 150 and not list(tmp_path.glob("out.jsonl?*"))


def test_negative_weights_need_no_sign_of_equality(ran: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    for number, words in enumerate((["--weights", "-1,.5"], ["--weights=-1,.5"], ["--weights", "-.5,-1"])):
        assert ran("merge", *words, "--output", tmp_path / f"{number}")[0] == 0
    same, again, other = ((tmp_path / f"{number}").read_bytes() for number in range(3))
    assert same == again != other


def test_a_misspelt_source_is_one_line(ran: Callable[..., tuple[int, str]]) -> None:
    code, said = ran("evaluate", "--source", "ud_faoo")
    assert code == 2 and said == "xlt: --source=ud_faoo: no such file in conf/source; did you mean ud_fao?\n"


def test_a_source_of_many_languages_needs_one(ran: Callable[..., tuple[int, str]]) -> None:
    code, said = ran("evaluate", "--source", "mono")
    assert code == 2 and said == "xlt: --source=mono: has many languages; give --language CODE\n"
