"""The notebooks of docs/notebooks run as they are, offline, and their last cell prints what the file shows.

`make notebooks` writes the outputs in the files anew.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def executed(source: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs a cell as Jupyter does: what it prints, and the value of its last line; returns its outputs."""
    tree = ast.parse(source)
    last = tree.body[-1] if isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";") else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(tree.body[:-1] if last else tree.body, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": printed.getvalue().splitlines(True)})
    if value is not None:
        data = {"text/plain": repr(value).splitlines(True)}
        outputs.append({"data": data, "execution_count": None, "metadata": {}, "output_type": "execute_result"})
    return outputs


def text_of(outputs: list[dict[str, Any]]) -> str:
    return "".join(line for output in outputs for line in output.get("text") or output["data"]["text/plain"])


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_and_shows_what_its_file_shows(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inherited = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(FOLDER.parents[1]), inherited])))
    notebook = json.loads(file.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    outputs = [executed("".join(cell["source"]), names) for cell in cells]
    if os.environ.get("XLT_WRITE_DOCS"):
        for number, (cell, made) in enumerate(zip(cells, outputs, strict=True), start=1):
            cell["execution_count"], cell["outputs"] = number, made
            for output in made:
                if "execution_count" in output:
                    output["execution_count"] = number
        file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shown = text_of(cells[-1]["outputs"])
    assert shown and without_numbers(text_of(outputs[-1])) == without_numbers(shown)


def without_numbers(text: str) -> str:
    """A text without its numbers, in which machines differ by rounding, and their padding."""
    return re.sub(r"-?\d+(\.\d+)?", "0", re.sub(r" +", " ", text))


def test_the_files_are_notebooks_with_outputs_and_no_trace_of_a_machine() -> None:
    assert [file.stem for file in NOTEBOOKS] == ["module_on_a_model", "new_language", "table_in_pandas"]
    for file in NOTEBOOKS:
        text = file.read_text(encoding="utf-8")
        notebook = json.loads(text)
        assert notebook["nbformat"] == 4 and len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
        assert notebook["cells"][-1]["cell_type"] == "code" and notebook["cells"][-1]["outputs"]
        assert "/tmp" not in text and "/home" not in text and "Traceback" not in text
        for cell in notebook["cells"]:
            assert all(len(line.rstrip("\n")) <= 120 for line in cell["source"])
            if cell["cell_type"] == "code":
                compile("".join(cell["source"]), str(file), "exec")
