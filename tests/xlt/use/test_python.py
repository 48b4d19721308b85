"""What `import xlt` offers: the commands as functions, typed and documented."""

from __future__ import annotations

import ast
import doctest
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import xlt
from tests.xlt.conftest import TAGGING
from xlt.errors import UsageError
from xlt.python_names import NAMES
from xlt.use import python


def test_the_examples_in_the_documentation_are_right() -> None:
    assert doctest.testmod(python).failed == 0


def test_names_types_and_the_functions_themselves_are_the_same_and_documented() -> None:
    stub = ast.parse(Path(xlt.__file__).with_suffix(".pyi").read_text())
    typed = {name.asname for node in stub.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert typed == set(NAMES) == set(python.__all__)
    assert all(getattr(xlt, name).__doc__ for name in NAMES)
    assert (Path(xlt.__file__).parent / "py.typed").exists()
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = xlt.no_such_name  # type: ignore[attr-defined]


def test_importing_xlt_imports_nothing_heavy() -> None:
    code = "import sys, xlt; xlt.__version__; sys.exit('torch' in sys.modules or 'hydra' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_predictions_are_those_of_the_command(modules: Mapping[str, Path], predicted: Callable[..., str]) -> None:
    model = xlt.load_model(modules["pos"], modules["fao"], device="cpu")
    texts = ["ban kon", "mos dat"]
    out = predicted("pos", "in.txt", "\n".join(texts), "jsonl", ("fao",), language="fao")
    rows = [json.loads(line) for line in out.splitlines()]
    for given in (texts, [["ban", "kon"], ["mos", "dat"]], [{"text": text, "language": "fao"} for text in texts]):
        annotations = xlt.predict(model, given, language="fao")  # type: ignore[arg-type]
        assert [list(one.columns["upos"]) for one in annotations] == [row["upos"] for row in rows]
    with pytest.raises(UsageError, match=r"text 1.*language"):
        xlt.predict(model, texts)
    with pytest.raises(UsageError, match=r"text 1.*sentence"):
        xlt.predict(model, [{"sentence": "ban"}], language="fao")


def test_a_run_is_trained_and_its_module_used(shelf: Path, tiny_bert: Path, tmp_path: Path) -> None:
    words = [*TAGGING, f"data_dir={shelf}", f"model.path={tiny_bert}", f"output_dir={tmp_path}"]
    run = xlt.train(*words)
    assert run.module.is_file() and run.validation is not None
    assert {record["source"] for record in run.evaluations} == {"eng", "fao"}
    assert xlt.train(*words).fingerprint == run.fingerprint
    header = xlt.load_module(run.module).header
    assert (header.fingerprint, header.task) == (run.fingerprint, "pos")
    (scores,) = xlt.evaluate(run.folder, sources=["ud_fao"], overrides=[f"data_dir={shelf}"], device="cpu")
    (stored,) = [record for record in run.evaluations if record["source"] == "fao"]
    assert scores.metrics == pytest.approx(stored["metrics"])
    (annotation,) = xlt.predict(xlt.load_model(run.folder, device="cpu"), [["the", "cat"]])
    assert len(annotation.columns["upos"]) == 2
