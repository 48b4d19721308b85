"""Wrong input for the table command: exit code 2, one line for each fault, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs.conftest import Ended
from tests.runs.refusals import Mistakes, filled, refused
from xlt.commands.reproduce import main as reproduce_table

# Name of the mistake -> words of the command, and for each expected line its parts.
MISTAKES: Mistakes = {
    "no table": (
        ("seeds=[1]",),
        [["table: give one, as table=4.2"]],
    ),
    "typo in the table's name": (
        ("table=pos_unsen",),
        [["table=pos_unsen: no such table", "did you mean pos_unseen?"]],
    ),
    "seeds that are no numbers": (("table=pos_unseen", "seeds=[a]"), [["seeds=[a]", "converted to Integer"]]),
    "no seeds": (("table=pos_unseen", "seeds=[]"), [["seeds=[]: must be different numbers", "seeds=[1,2,3]"]]),
    "a seed twice": (("table=pos_unseen", "seeds=[1,1]"), [["seeds=[1, 1]: must be different numbers"]]),
    "no workers": (("table=pos_unseen", "launcher.workers=0"), [["launcher.workers=0: must be at least 1"]]),
    "unknown key of a table": (("table=pos_unseen", "+table.foo=1"), [["table.foo=1: no such key in TableConfig"]]),
    "average over what is no column": (
        ("table=pos_unseen", "table.average=[eng,xxx]"),
        [["table.average: no part has a column xxx"]],
    ),
    "average over a column that is not asked for": (
        ("table=pos_unseen", "table.columns=[fao]", "table.average=[fao,sme]"),
        [["table.average: sme not in table.columns=['fao']"]],
    ),
    "what would count or be shown twice": (
        ("table=pos_unseen", "table.columns=[fao,sme,fao]", "table.rows=[lt_sft,lt_sft]", "table.average=[sme,sme]"),
        [
            ["table.rows: lt_sft more than once"],
            ["table.columns: fao more than once"],
            ["table.average: sme more than once"],
        ],
    ),
    "typo in a key of its runs": (
        ("table=pos_unseen", "seeed=1", "data_dir={data}", "model.path={model}"),
        [["seeed=1: no such key seeed; did you mean seed?"]],
    ),
    "column that is not evaluated": (
        (
            "table=pos_unseen",
            "table.parts.POS.columns=[qqq]",
            "table.parts.POS.average=[]",
            "data_dir={data}",
            "model.path={model}",
        ),
        [["columns: qqq not in data.evaluation"]],
    ),
    "unknown option": (("table=pos_unseen", "--nope"), [["--nope: neither an option nor an override"]]),
    "one seed": (
        ("table=pos_unseen", "seed=5"),
        [["seed=5: a table has a run for each of several seeds; write seeds=[5]"]],
    ),
    "word that is no override": (("table=pos_unseen", "foo"), [["foo: neither an option nor an override"]]),
    "name without its key": (("quickstart", "seeds=[1]"), [["quickstart: write table=quickstart"]]),
    "number without its key": (("4.2",), [["4.2: write table=4.2"]]),
    "misspelt key of the table": (("tabel=quickstart",), [["tabel: did you mean table=?"]]),
    "absent data": (
        ("table=pos_unseen", "data_dir=/no/such/folder", "model.path={model}"),
        [["data_dir=/no/such/folder: no such folder"]],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_table_command_gets_one_line_and_leaves_nothing(
    name: str,
    input_files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words, expected = MISTAKES[name]
    with pytest.raises(SystemExit) as stop:
        reproduce_table(filled(words, input_files))
    output = capsys.readouterr()
    left = [str(path) for path in tmp_path.iterdir()]
    refused(Ended(stop.value.code, output.out, output.err.splitlines(), left), expected)
