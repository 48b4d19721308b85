"""CoNLL-U treebanks (Universal Dependencies): words with their UPOS tags.

Multi-word token lines (`3-4`) and empty nodes (`5.1`) are not syntactic words and are passed over, as in the CoNLL
evaluations.
"""

from __future__ import annotations

from pathlib import Path

from xlt.config import SourceConfig, UsageError
from xlt.data.examples import Example

_COLUMNS = 10


def files(source: SourceConfig) -> list[Path]:
    """The one file of the split: `path` itself, or `*-ud-SPLIT.conllu` or `SPLIT.conllu` in the folder `path`."""
    path = source.location()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f"{path}: no such file or folder; reader conllu wants a .conllu file or a treebank's folder")
    found = sorted([*path.glob(f"*-ud-{source.split}.conllu"), *path.glob(f"{source.split}.conllu")])
    if len(found) != 1:
        there = ", ".join(sorted(file.name for file in path.glob("*.conllu"))) or "no .conllu file"
        wanted = f"*-ud-{source.split}.conllu"
        raise UsageError(f"{path}: {len(found)} files for split {source.split}, wanted one {wanted}; it has {there}")
    return found


def read(source: SourceConfig) -> list[Example]:
    """All sentences of the split, with column `upos`.

    Raises:
        UsageError: a line is not UTF-8, lacks columns, or breaks the numbering of words; names file and line.
    """
    (file,) = files(source)
    examples: list[Example] = []
    words: list[str] = []
    tags: list[str] = []
    start = 0
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            if words:
                examples.append(Example(f"{file}:{start}", words=tuple(words), columns={"upos": tuple(tags)}))
            words, tags = [], []
            continue
        if line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != _COLUMNS:
            raise UsageError(f"{file}:{number}: {len(fields)} tab-separated columns, CoNLL-U has {_COLUMNS}")
        if "-" in fields[0] or "." in fields[0]:
            continue
        if fields[0] != str(len(words) + 1):
            raise UsageError(f"{file}:{number}: word id {fields[0]!r} where {len(words) + 1} was due")
        if not fields[1]:
            raise UsageError(f"{file}:{number}: empty FORM column")
        if not words:
            start = number
        words.append(fields[1])
        tags.append(fields[3])
    if words:
        examples.append(Example(f"{file}:{start}", words=tuple(words), columns={"upos": tuple(tags)}))
    return examples


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = file.read_bytes()[: error.start].count(b"\n") + 1
        raise UsageError(f"{file}:{line}: not UTF-8") from error
