"""Overrides and options that do not compose: exit code 2, one line for each fault, nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs.conftest import Ended
from tests.runs.refusals import Mistakes, assert_refused

# Name of the mistake -> words that are added to the right command, and for each expected line its parts.
MISTAKES: Mistakes = {
    "typo in a key": (("seeed=3",), [["seeed=3: no such key seeed; did you mean seed?"]]),
    "typo in a group's key": (("train.bath_size=8",), [["train.bath_size", "did you mean train.batch_size?"]]),
    "another spelling": (("method=LT-SFT",), [["method=LT-SFT: no method/LT-SFT in conf/; did you mean lt_sft?"]]),
    "typo in a group": (("metod=full",), [["metod=full: no such key metod; did you mean method?"]]),
    "typo in a group that is no key": (
        ("experimnt=pos",),
        [["experimnt=pos: no such key experimnt; did you mean experiment?"]],
    ),
    "typo in an option": (("method=lt_stf",), [["method=lt_stf: no method/lt_stf in conf/; did you mean lt_sft?"]]),
    "typo in an experiment": (("experiment=parsig",), [["no experiment/parsig", "did you mean parsing?"]]),
    "null for an option": (("method=null",), [["method=null: not the name of an option"]]),
    "option unlike any": (("scale=huge",), [["scale=huge", "there are mini, thesis"]]),
    "typo in a source's name": (("data.sources.end.cap=3",), [["no data.sources.end; did you mean data.sources.eng?"]]),
    "typo in a source's key": (("data.sources.eng.upsampel=3",), [["data.sources.eng.upsampel", "upsample?"]]),
    "typo in a source's option": (("+source@data.sources.fo=ud_fo",), [["no source/ud_fo", "did you mean ud_fao?"]]),
    "unknown hyperparameter": (("method.densty=0.1",), [["method.densty", "did you mean method.density?"]]),
    "added key": (("+sede=3",), [["sede=3: no such key in RunConfig; did you mean seed?"]]),
    "added hyperparameter": (
        ("+method.top_k=3",),
        [["method.top_k=3: no such key in LtSftConfig; there are among, dense_epochs"]],
    ),
    "text for a number": (("seed=abc",), [["seed=abc", "'abc' of type 'str' could not be converted to Integer"]]),
    "fraction for an integer": (("train.batch_size=3.5",), [["train.batch_size=3.5", "converted to Integer"]]),
    "list for a number": (("seed=[1]",), [["seed=[1]", "could not be converted to Integer"]]),
    "number for a mapping": (("language_modules.paths=3",), [["language_modules.paths=3", "Dict[str, str]"]]),
    "null where a value is needed": (("train.batch_size=null",), [["train.batch_size=null: null is not allowed"]]),
    "a key's name of before": (("train.density=0.1",), [["train.density is method.density now"]]),
    "a recipe's name of before": (("train=tagging_mini",), [["train=tagging_mini is recipe=pos now"]]),
    "an experiment's name of before": (("experiment=pos_lt_sft",), [["pos_lt_sft is pos now", "experiment=pos"]]),
    "several that do not compose, and a range": (
        ("trainn.batch_size=3", "seed=abc", "train.learning_rate=0", "data_dir=/no/such/folder"),
        [
            ["trainn.batch_size=3: no such key"],
            ["seed=abc"],
            ["train.learning_rate=0.0: must be in (0, 1"],
            ["data_dir=/no/such/folder: no such folder"],
        ],
    ),
    "interpolation of nothing": (("model.path=${{nope}}",), [["model.path: Interpolation key 'nope' not found"]]),
    "open quote": (("model.path='a",), [["not to be read as key=value", "quoted twice"]]),
    "equals sign in a value": (("model.path=a=b",), [["model.path=a=b", "quoted twice"]]),
    "equals signs in a list": (
        ("language_modules.overrides=[train.max_steps=3,method.density=0.1]",),
        [["each entry", "\"language_modules.overrides=['train.max_steps=3','method.density=0.1']\""]],
    ),
    "sweep without -m": (("seed=1,2",), [["seed=1,2: several values; sweep over them with -m"]]),
    "range without -m": (("seed=range(1,3)",), [["seed=range(1,3): several values; sweep over them with -m"]]),
    "word that is no override": (("foo",), [["foo: not an override; write KEY=VALUE"]]),
    "value without key": (("=3",), [["=3: not an override; write KEY=VALUE"]]),
    "word and typo": (("foo", "seeed=3"), [["foo: not an override"], ["seeed=3", "did you mean seed?"]]),
    "unknown option": (("--nope",), [["--nope: no such option; see xlt --help"]]),
    "typo in an option's name": (("--mutlirun",), [["--mutlirun: no such option; did you mean --multirun?"]]),
    "two modes": (("--multirun", "--cfg", "job"), [["--cfg --multirun: give one of them"]]),
    "absent config folder": (("--config-dir", "/no/such/dir"), [["--config-dir=/no/such/dir: no such folder"]]),
    "absent config": (("--config-name", "nope"), [["--config-name=nope: no such file"]]),
    "pickle as command line": (("--experimental-rerun", "x.pickle"), [["--experimental-rerun: refused", "unpickle"]]),
    "adding what is there": (("+method=full",), [["+method=full: there is a choice of method already"]]),
    "replacing what is not there": (
        ("source@data.sources.fao=ud_fao",),
        [["source@data.sources.fao=ud_fao", "to add it, write +source@data.sources.fao="]],
    ),
    "deleting what is not there": (("~data.sources.est",), [["~data.sources.est: nothing to delete"]]),
    "unknown launcher": (("hydra/launcher=slurmm",), [["hydra/launcher=slurmm: no hydra/launcher/slurmm"]]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_override_gets_one_line_and_leaves_nothing(
    name: str, input_files: dict[str, Path], command: Callable[..., Ended]
) -> None:
    assert_refused(command, input_files, *MISTAKES[name])


@pytest.mark.parametrize("words", [("foo",), ("--nope",), ("seeed=3", "recipe=nope"), ("data_dir=/no/such/folder",)])
def test_the_installed_command_answers_without_a_traceback(words: tuple[str, ...], tmp_path: Path) -> None:
    call = [sys.executable, "-c", "from xlt.commands.cli import main; main()", *words]
    ended = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr and all(line.startswith("xlt: ") for line in ended.stderr.splitlines()), ended.stderr
    assert not ended.stdout
    assert not list(tmp_path.iterdir())
