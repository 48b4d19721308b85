"""Texts of others in terminals and in Markdown: they are shown, and nothing in them is carried out."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from xlt.console import Terminal
from xlt.escapes import markdown_text, say, terminal_line, terminal_text

ROOT = Path(__file__).parents[2]
# A colour, a title of the window, a move of the cursor, C1's form of it, a return, a reversal, a line of Unicode.
HOSTILE = "a\x1b[31mb\x1b]0;x\x07c\x1b[2Ad\x9b1me\rf\u202eg\u2028h\x00i"
SHOWN = r"a\x1b[31mb\x1b]0;x\x07c\x1b[2Ad\x9b1me\rf\u202eg\u2028h\x00i"


def terminal() -> tuple[Terminal, io.StringIO]:
    console = Terminal()
    console.file = io.StringIO()
    return console, console.file


def test_control_characters_are_shown_and_the_rest_is_as_it_was() -> None:
    assert terminal_text(HOSTILE) == SHOWN
    other = "føroyskt, русский, العربية\u200f, नमस्ते\u200d, 中文, é, 👩‍🔬, [red] | `x` \\n\n\tend"
    assert terminal_text(other) == other
    assert terminal_line("a\nxlt: done\tb") == r"a\nxlt: done\tb"
    assert terminal_text("\ud800") == r"\ud800"  # a file's name that is not UTF-8


def test_whatever_a_terminal_prints_is_escaped() -> None:
    console, file = terminal()
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(Text(HOSTILE))
    table.add_row(HOSTILE)
    progress = Progress(TextColumn("{task.description}"), console=console)
    progress.add_task(HOSTILE)
    for shown in (HOSTILE, Text(HOSTILE, "bold"), table, progress.get_renderable()):
        console.print(shown, width=200)
    assert file.getvalue().count(r"\x1b[31m") >= 5
    assert not {"\x1b", "\x07", "\x9b", "\r", "\u202e", "\x00"} & set(file.getvalue())


def test_markup_in_a_text_is_text() -> None:
    console, file = terminal()
    console.print("[red]no[/red] :smile: [link=http://x]y[/link] [/]")
    assert file.getvalue() == "[red]no[/red] :smile: [link=http://x]y[/link] [/]\n"


def test_a_line_for_the_user_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"xlt: {HOSTILE}\nxlt: all is well")
    assert capsys.readouterr().err == rf"xlt: {SHOWN}\nxlt: all is well" + "\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("LT-SFT, 8%: a_b ± 1 (†)", "LT-SFT, 8%: a_b ± 1 (†)"),
        ("x | 99.9 |\n| fake | 100 |", r"x \| 99.9 \| \| fake \| 100 \|"),
        ("**best** `code`", r"\*\*best\*\* \`code\`"),
        ("![x](http://tracker/a.png)", r"![x]\(http://tracker/a.png)"),
        ("<script>x</script>", "&lt;script>x&lt;/script>"),
        ("a\\| b", r"a\\\| b"),
        ("a\x1b[31m\rb", r"a\\x1b[31m\\rb"),
    ],
)
def test_a_text_stays_in_its_cell_of_markdown(text: str, shown: str) -> None:
    assert markdown_text(text) == shown


def test_every_line_of_the_program_goes_through_these_functions() -> None:
    """No file but two makes a console of rich, or prints to standard error by itself."""
    wrong = []
    for path in sorted((ROOT / "xlt").rglob("*.py")):
        if path.name in ("escapes.py", "console.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            to_stderr = any(word.arg == "file" and "stderr" in ast.unparse(word.value) for word in node.keywords)
            if node.func.id == "Console" or (node.func.id == "print" and to_stderr):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []
