"""The `xlt` command called from an empty folder, and a small shelf of data to call it with."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from xlt.cli import main

TREEBANKS = {
    "eng": "UD_English-EWT",
    "sme": "UD_North_Sami-Giella",
    "myv": "UD_Erzya-JR",
    "glv": "UD_Manx-Cadhan",
    "bam": "UD_Bambara-CRB",
    "fao": "UD_Faroese-FarPaHC",
}
TEXTS = {"eng": "en", "sme": "sme", "myv": "myv", "glv": "gv", "bam": "bm", "fao": "fo"}


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, what it printed, and what it left in the folder it was called from."""

    code: int
    out: str
    lines: list[str]
    left: list[str]


def write_treebank(file: Path, sentences: int = 8, tag: str = "NOUN") -> None:
    """A CoNLL-U file of three-word sentences."""
    file.parent.mkdir(parents=True, exist_ok=True)
    blocks = []
    for number in range(sentences):
        words = [("the", "DET"), (f"cat{number}", tag), ("sat", "VERB")]
        blocks.append("".join(f"{i}\t{w}\t_\t{t}\t_\t_\t0\t_\t_\t_\n" for i, (w, t) in enumerate(words, start=1)))
    file.write_text("\n".join(blocks) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Treebanks and text as experiment=pos_lt_sft wants them, a few sentences each."""
    folder = tmp_path_factory.mktemp("data")
    for language, treebank in TREEBANKS.items():
        for split in ("train", "dev", "test"):
            write_treebank(folder / "ud" / treebank / f"{language}_x-ud-{split}.conllu")
    (folder / "mono").mkdir()
    for code in TEXTS.values():
        text = "".join(f"the {code} cat sat on mat {number}\n" for number in range(20))
        (folder / "mono" / f"{code}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """`command("seed=1", ...)`: calls `xlt` in this process, from an empty folder."""
    folder = tmp_path / "called-from"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.delenv("XLT_TRACEBACK", raising=False)
    logging.getLogger("hydra._internal.hydra").disabled = False  # as a command before it in this process leaves it

    def call(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["xlt", *map(str, words)])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        assert isinstance(code, int)
        return Ended(code, said.out, said.err.splitlines(), left)

    return call
