"""The README and the pages of docs/: their blocks of code, command lines, files and links."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
_RESULTS = ROOT / "docs" / "results"
PAGES = (
    README,
    *(
        page
        for page in sorted((ROOT / "docs").rglob("*.md"))
        if not page.is_relative_to(_RESULTS) or page == _RESULTS / "README.md"  # the others are numbers
    ),
)
_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^    .*\n(?:\n+(?=    ))?)+", re.MULTILINE)
_COMMAND = re.compile(r"^(?:\$ )?(?=(?:xlt|python|make) )", re.MULTILINE)
_FILE = re.compile(r"^# (\S+\.(?:py|yaml))(?:: .*)?\n", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code of a page.

    Attributes:
        language: sh, python, yaml, ... as the page says; of an indented block, python if it looks so, and otherwise sh.
        text: without indent, with a line break at its end.
    """

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in their order, fenced ones before those that are only indented."""
    text = page.read_text(encoding="utf-8")
    found = [Block(language, _without_indent(code, len(indent))) for indent, language, code in _FENCED.findall(text)]
    for indented in _INDENTED.findall(_FENCED.sub("", text)):
        code = _without_indent(indented, 4)
        found.append(Block("python" if re.match(r"(from|import) \w+", code) else "sh", code))
    return found


def _without_indent(text: str, width: int) -> str:
    return "\n".join(line[width:] for line in text.splitlines()) + "\n"


def shown_files(page: Path) -> dict[str, str]:
    """Path -> text of the files that a page shows, each named by a comment in its first line, which is left out.

    A file ends with its block, or before the next file or command line in it.
    """
    files: dict[str, str] = {}
    for block in blocks(page):
        _, *parts = _FILE.split(block.text)
        texts = (_COMMAND.split(text, maxsplit=1)[0].strip("\n") + "\n" for text in parts[1::2])
        files |= dict(zip(parts[::2], texts, strict=True))
    return files


def python_blocks(page: Path) -> list[str]:
    """The blocks of Python of a page that are no files: code that is run in this order."""
    return [block.text for block in blocks(page) if block.language == "python" and not _FILE.match(block.text)]


def commands(page: Path) -> list[list[str]]:
    """The command lines of a page, as words without the comment: those of `xlt` and of `scripts`."""
    return [line for line in _lines(page) if line[0] == "xlt" or (line[0] == "python" and "scripts/" in line[1])]


def make_targets(page: Path) -> set[str]:
    """What a page makes: NAME of `make NAME`, in blocks and in its text."""
    named = re.findall(r"`make ([\w-]+)", page.read_text(encoding="utf-8"))
    return {*named, *(line[1] for line in _lines(page) if line[0] == "make")}


def _lines(page: Path) -> Iterator[list[str]]:
    for block in blocks(page):
        if block.language in ("sh", "console"):
            for line in block.text.replace("\\\n", " ").splitlines():
                if _COMMAND.match(line):
                    yield shlex.split(line.removeprefix("$ "), comments=True)


def links(page: Path) -> list[str]:
    """The targets of the links and pictures of a page, outside of code."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    text = re.sub(r"`[^`\n]*`", "", text)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as Markdown makes them for mkdocs."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = unicodedata.normalize("NFKD", re.sub(r"[`*]", "", heading)).encode("ascii", "ignore").decode().lower()
        name = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip())
        found.add(next(one for one in (name, *(f"{name}_{n}" for n in range(1, 99))) if one not in found))
    return found
