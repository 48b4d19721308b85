"""Wrong input through the real command: exit code 2, one line for each fault, nothing left behind."""

from __future__ import annotations

import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch

from xlt.commands.reproduce import main as reproduce_table
from xlt.models.loading import load_pretrained
from xlt.modules import Entries, ModuleHeader, SparseDelta

WEIGHT = "backbone.encoder.layer.0.attention.self.query.weight"
# A command that runs; every wrong one is this one with a mistake in it.
RIGHT = ("--config-dir", "{configs}", "experiment=right", "data_dir={data}", "model.path={model}")
EXPERIMENT = """\
# @package _global_
defaults:
  - /source@data.sources.eng: ud_eng
  - /source@data.validation.eng: ud_eng
  - /source@data.evaluation.fao: ud_fao
  - override /recipe: nano_distil
  - override /tracker: silent
  - _self_
task: {max_length: 40}
data:
  validation: {eng: {split: dev}}
  evaluation: {fao: {split: test}}
train: {max_steps: 2, evaluate_every_steps: 1}
device: cpu
"""
WITH_MODULE = ("~data.evaluation.fao", "+language_modules.paths.eng={module}")

# Name of the mistake -> what is added to RIGHT, and for each line expected what it has to say.
MISTAKES: dict[str, tuple[tuple[str, ...], list[list[str]]]] = {
    "typo in a key": (("seeed=3",), [["seeed=3: no such key seeed; did you mean seed?"]]),
    "typo in a group's key": (("train.bath_size=8",), [["train.bath_size", "did you mean train.batch_size?"]]),
    "typo in a group": (("metod=full",), [["metod=full: no such key metod; did you mean method?"]]),
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
        [["method.top_k=3: no such key in LtSftConfig; there are dense_epochs"]],
    ),
    "text for a number": (("seed=abc",), [["seed=abc", "'abc' of type 'str' could not be converted to Integer"]]),
    "fraction for an integer": (("train.batch_size=3.5",), [["train.batch_size=3.5", "converted to Integer"]]),
    "list for a number": (("seed=[1]",), [["seed=[1]", "could not be converted to Integer"]]),
    "number for a mapping": (("language_modules.paths=3",), [["language_modules.paths=3", "Dict[str, str]"]]),
    "null where a value is needed": (("train.batch_size=null",), [["train.batch_size=null: null is not allowed"]]),
    "below its range": (("train.batch_size=0",), [["train.batch_size=0: must be at least 1"]]),
    "above its range": (
        ("method.density=2",),
        [["method.density=2.0: must be in (0, 1]; thesis range 0.0025 to 0.08"]],
    ),
    "a key's name of before": (("train.density=0.1",), [["train.density is method.density now"]]),
    "a recipe's name of before": (("train=tagging_mini",), [["train=tagging_mini is recipe=pos now"]]),
    "an experiment's name of before": (("experiment=pos_lt_sft",), [["pos_lt_sft is pos now", "experiment=pos"]]),
    "not a number": (("data.held_out_fraction=nan",), [["data.held_out_fraction=nan: must be in [0, 0.5]"]]),
    "not among the choices": (("train.precision=fp8",), [["train.precision=fp8: must be one of fp32, bf16"]]),
    "unknown device": (("device=gpu",), [["device=gpu: must be cpu, cuda, cuda:N or auto"]]),
    "several that do not compose, and a range": (
        ("trainn.batch_size=3", "seed=abc", "train.learning_rate=0", "data_dir=/no/such/folder"),
        [
            ["trainn.batch_size=3: no such key"],
            ["seed=abc"],
            ["train.learning_rate=0.0: must be above 0"],
            ["data_dir=/no/such/folder: no such folder"],
        ],
    ),
    "several ranges and contradictions": (
        ("train.batch_size=0", "train.clip_norm=-1", "seed=-1", "data.validation.eng.split=test", "language=xx"),
        [
            ["data.validation.eng.split=test"],
            ["train.batch_size=0"],
            ["train.clip_norm=-1.0"],
            ["seed=-1: must be at least 0"],
        ],
    ),
    "absent data_dir": (("data_dir=/no/such/folder",), [["data_dir=/no/such/folder: no such folder"]]),
    "data_dir not given, hub out of reach": (
        ("data_dir=null",),
        [
            ["universal_dependencies (subset en_ewt, split train", "cannot be loaded", "set data_dir=FOLDER"],
            ["universal_dependencies (subset en_ewt, split dev", "cannot be loaded", "set data_dir=FOLDER"],
            ["universal_dependencies (subset fo_farpahc, split test", "cannot be loaded", "set data_dir=FOLDER"],
        ],
    ),
    "data_dir not given, no hub": (
        ("data_dir=null", "data.sources.eng.hub=null"),
        [["data_dir=null", "data.sources.eng.path", "give data_dir=FOLDER"]],
    ),
    "absent file": (
        ("data.sources.eng.path=/no/such/file.conllu",),
        [["data.sources.eng: /no/such/file.conllu: no such file or folder", "reader conllu"]],
    ),
    "absent split": (
        ("data.sources.eng.split=text",),
        [["data.sources.eng: ", "no files for split text", "eng_x-ud-dev.conllu"]],
    ),
    "several absent files": (
        ("data_dir={empty}",),
        [["data.sources.eng: "], ["data.validation.eng: "], ["data.evaluation.fao: "]],
    ),
    "path not given": (
        ("data.sources.eng.path=null", "data.sources.eng.hub=null"),
        [["data.sources.eng.path=null: reader conllu needs a file"]],
    ),
    "no model": (("model.path=null",), [["model: exactly one of model.path, model.run, model.random", "none"]]),
    "two models": (
        ("model=nano_random", "model.path={model}"),
        [["model: exactly one of", "model.path and model.random"]],
    ),
    "dropout of random weights in two places": (
        ("model=nano_random", "model.path=null", "model.dropout=0.2"),
        [["model.dropout=0.2: random weights have one in model.random.dropout"]],
    ),
    "absent model": (("model.path=/no/such/model",), [["model.path=/no/such/model: no model there", "config.json"]]),
    "model folder without weights": (("model.path={weightless}",), [["config.json without weights"]]),
    "model folder without tokenizer": (("model.path={speechless}",), [["config.json without a tokenizer"]]),
    "model folder without config": (("model.path={empty}",), [["model.path=", "no model there"]]),
    "hub id without network": (
        ("model.path=nobody/nothing",),
        [["model.path=nobody/nothing: no local folder, and the hub does not give it"]],
    ),
    "module absent": (
        (*WITH_MODULE, "language_modules.paths.eng=/no/file"),
        [["paths.eng=/no/file: no such file", ".safetensors"]],
    ),
    "module truncated": ((*WITH_MODULE, "language_modules.paths.eng={truncated}"), [["truncated.st: is truncated"]]),
    "module with a flipped bit": (
        (*WITH_MODULE, "language_modules.paths.eng={flipped}"),
        [["flipped.st: its checksum does not match", "copy or train the module again"]],
    ),
    "module of another base model": (
        (*WITH_MODULE, "language_modules.paths.eng={other_base}"),
        [["other_base.st: belongs to base model 'another' with hash b1", "use that base model"]],
    ),
    "module of another language": (
        (*WITH_MODULE, "language_modules.paths.eng={other_language}"),
        [["other_language.st: a module of language deu, wanted eng"]],
    ),
    "module of a task": (
        (*WITH_MODULE, "language_modules.paths.eng={task_module}"),
        [["task_module.st: a module of task pos, wanted the language module of eng"]],
    ),
    "pickle as module": (
        (*WITH_MODULE, "language_modules.paths.eng={pickled}"),
        [["pickled.st: is a pickle, which is never unpickled"]],
    ),
    "torch.save as module": (
        (*WITH_MODULE, "language_modules.paths.eng={zipped}"),
        [["zipped.st: is a zip archive as torch.save writes it, which is never unpickled"]],
    ),
    "plain safetensors as module": (
        (*WITH_MODULE, "language_modules.paths.eng={plain}"),
        [["plain.st: is a safetensors file without the header of a module"]],
    ),
    "broken line": (("data.sources.eng.path={broken}",), [["broken.conllu:2: 9 tab-separated columns", "has 10"]]),
    "word numbers out of order": (("data.sources.eng.path={misnumbered}",), [["misnumbered.conllu:2: word id '3'"]]),
    "unseen label": (("data.sources.eng.path={unseen}",), [["unseen.conllu:1: label 'NOPE' is not in task.labels"]]),
    "empty split": (("data.sources.eng.path={void}",), [["data.sources.eng: split train of", "has no examples"]]),
    "not UTF-8": (("data.sources.eng.path={latin}",), [["latin.conllu:2: not UTF-8"]]),
    "two broken files": (
        ("data.sources.eng.path={broken}", "data.evaluation.fao.path={unseen}"),
        [["broken.conllu:2"], ["unseen.conllu:1"]],
    ),
    "source without the task's column": (
        ("data.sources.eng.reader=text", "data.sources.eng.path={lines}"),
        [["lines.txt:1: ", "no column upos", "data.sources.eng"]],
    ),
    "text that is not UTF-8": (
        ("data.sources.eng.reader=text", "data.sources.eng.path={latin}"),
        [["latin.conllu:2: not UTF-8"]],
    ),
    "too few to hold out from": (
        ("~data.validation.eng", "data.sources.eng.path={single}"),
        [["data.sources.eng: 1 examples are too few to hold some out"]],
    ),
    "selection on a test split": (
        ("data.validation.eng.split=test",),
        [["data.validation.eng.split=test: model selection on a test split is refused", "split=dev"]],
    ),
    "training on a test split": (
        ("data.sources.eng.split=test",),
        [["data.sources.eng.split=test: training on a test split is refused"]],
    ),
    "evaluation on what is learned from": (
        ("+source@data.evaluation.eng=ud_eng",),
        [["data.evaluation.eng: the same split is in data.sources"]],
    ),
    "evaluation on the very file that is learned from": (
        (
            "data.sources.eng.path={single}",
            "+source@data.evaluation.eng=ud_eng",
            "data.evaluation.eng.split=test",
            "data.evaluation.eng.path={single}",
        ),
        [["data.evaluation.eng: the same split is in data.sources; choose another split or file"]],
    ),
    "nothing to learn from": (("~data.sources.eng",), [["data.sources: empty; add one", "+source@data.sources.eng"]]),
    "language without module": (
        ("+language_modules.paths.eng={module}",),
        [["language_modules: no module for fao; give +language_modules.paths.fao=FILE"]],
    ),
    "two-letter language code": (
        ("data.sources.eng.language=fo",),
        [["data.sources.eng.language=fo: not an ISO 639-3 code; Faroese is fao"]],
    ),
    "language by its name": (
        ("data.evaluation.fao.language=faroese",),
        [["data.evaluation.fao.language=faroese: not an ISO 639-3 code; did you mean fao?"]],
    ),
    "language that nobody speaks": (("data.evaluation.fao.language=qqq",), [["qqq: not an ISO 639-3 code"]]),
    "language outside of the embedded corpus": (
        ("data.evaluation.fao.reader=locale_expressions", "data.evaluation.fao.language=ace"),
        [["data.evaluation.fao.language=ace: not one of the", "embedded corpus"]],
    ),
    "language module from another language": (
        ("task=mlm_lines", "task.max_length=40", "language=fao"),
        [["language=fao: data.sources.eng is of language eng"]],
    ),
    "language for a task": (("language=eng",), [["language=eng: task pos leaves a task module"]]),
    "no length of training": (
        ("train.max_steps=null",),
        [["train.epochs and train.max_steps are both null: nothing says how long to train"]],
    ),
    "two rhythms of evaluation": (
        ("train.evaluate_every_epochs=1",),
        [["give one of train.evaluate_every_steps and train.evaluate_every_epochs, not both"]],
    ),
    "more steps at least than at most": (
        ("train.min_steps=9",),
        [["train.min_steps=9: larger than train.max_steps=2"]],
    ),
    "micro-batch above the batch": (
        ("train.batch_size=4", "train.micro_batch_size=8"),
        [["train.micro_batch_size=8: larger than train.batch_size=4"]],
    ),
    "heads that do not divide the width": (
        ("model=nano_random", "model.path=null", "model.random.heads=3"),
        [["model.random.heads=3: must divide model.random.hidden_size=128"]],
    ),
    "input longer than the model's positions": (
        ("task.max_length=400",),
        [["task.max_length=400", "has 50 positions", "give task.max_length=50 or less"]],
    ),
    "input longer than a random model's positions": (
        ("model=nano_random", "model.path=null", "task.max_length=400"),
        [["task.max_length=400: model.random has 96 positions"]],
    ),
    "unknown reader": (
        ("data.sources.eng.reader=conlu",),
        [["data.sources.eng.reader=conlu: no such reader; there are conll, conllu"]],
    ),
    "output_dir is a file": (("output_dir={lines}",), [["output_dir=", "lines.txt is not a folder"]]),
    "unknown base run": (
        ("model=nano", "model.path=null", "model.run.experiment=nano_pretrane"),
        [["model.run: experiment=nano_pretrane", "did you mean nano_pretrain?"]],
    ),
    "mistake in a base run's overrides": (
        ("model=nano", "model.path=null", "model.run.overrides=['train.batch_size=0']"),
        [["train.batch_size=0: must be at least 1"]],
    ),
    "interpolation of nothing": (("model.path=${{nope}}",), [["model.path: Interpolation key 'nope' not found"]]),
    "open quote": (("model.path='a",), [["not to be read as key=value", "quoted twice"]]),
    "equals sign in a value": (("model.path=a=b",), [["model.path=a=b", "quoted twice"]]),
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


@pytest.fixture(scope="session")
def things(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, data_dir: Path) -> dict[str, Path]:
    """Good and bad files by the names that MISTAKES gives them."""
    folder = tmp_path_factory.mktemp("things")
    made: dict[str, Path] = {"data": data_dir, "model": tiny_bert, "configs": folder / "configs"}
    (folder / "configs" / "experiment").mkdir(parents=True)
    (folder / "configs" / "experiment" / "right.yaml").write_text(EXPERIMENT, encoding="utf-8")

    def module(name: str, **header: Any) -> None:
        made[name] = folder / f"{name}.st"
        base = {"kind": "sparse_delta", "method": "lt_sft", "base_model": "tiny", "base_hash": base_hash}
        entries = {WEIGHT: Entries(torch.tensor([0, 5]), torch.tensor([0.1, 0.2]), torch.Size([32, 32]))}
        SparseDelta(ModuleHeader(**{**base, **header}), entries, {}).save(made[name])

    def file(name: str, content: bytes) -> None:
        made[name.partition(".")[0]] = folder / name
        (folder / name).write_bytes(content)

    base_hash = load_pretrained(str(tiny_bert)).base_hash
    module("module", language="eng", provenance={"experiment": "x" * 400})
    module("other_base", language="eng", base_hash="b1", base_model="another")
    module("other_language", language="deu")
    module("task_module", task="pos")
    good = made["module"].read_bytes()
    file("truncated.st", good[: len(good) // 2])
    file("flipped.st", good[:-3] + bytes([good[-3] ^ 4]) + good[-2:])
    file("pickled.st", pickle.dumps({"a": [1, 2]}))
    torch.save({"a": torch.ones(3)}, folder / "zipped.st")
    safetensors.torch.save_file({"a": torch.ones(3)}, folder / "plain.st")
    made |= {name: folder / f"{name}.st" for name in ("zipped", "plain")}

    word = "{}\t{}\t_\t{}\t_\t_\t0\t_\t_\t_\n"
    first = word.format(1, "the", "DET").encode()
    file("broken.conllu", first + b"2\tcat\t_\tNOUN\t_\t_\t0\t_\t_\n\n")
    file("misnumbered.conllu", first + word.format(3, "cat", "NOUN").encode() + b"\n")
    file("unseen.conllu", first + word.format(2, "cat", "NOPE").encode() + b"\n")
    file("void.conllu", b"# a comment\n\n\n")
    file("latin.conllu", first + word.format(2, "cát", "NOUN").encode("latin-1") + b"\n")
    file("single.conllu", first + b"\n")
    file("lines.txt", b"the cat sat\non the mat\n")
    for name in ("empty", "weightless", "speechless"):
        made[name] = folder / name
        made[name].mkdir()
    shutil.copy(tiny_bert / "config.json", made["weightless"])
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_bert / name, made["speechless"])
    return made


def filled(words: tuple[str, ...], things: dict[str, Path]) -> list[str]:
    return [word.format(**things) for word in words]


class Ended(NamedTuple):
    """How a command ended: exit code, output, lines on standard error, files left."""

    code: Any
    out: str
    lines: list[str]
    left: list[str]


def refused(ended: Any, expected: list[list[str]]) -> None:
    """Exit code 2, a line for each fault and no other, nothing left behind."""
    assert ended.code == 2, ended
    assert len(ended.lines) == len(expected), ended.lines
    assert all(line.startswith("xlt: ") for line in ended.lines), ended.lines
    for fragments in expected:
        assert any(all(fragment in line for fragment in fragments) for line in ended.lines), (fragments, ended.lines)
    assert not ended.out
    assert not ended.left, ended.left


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_line_and_leaves_nothing(
    name: str, things: dict[str, Path], command: Callable[..., Any]
) -> None:
    before = _listing(things)
    words, expected = MISTAKES[name]
    refused(command(*filled((*RIGHT, *words), things)), expected)
    assert _listing(things) == before


def test_the_command_that_the_mistakes_are_made_in_runs(things: dict[str, Path], command: Callable[..., Any]) -> None:
    ended = command(*filled((*RIGHT, *WITH_MODULE), things))
    assert ended.code == 0, ended.lines
    assert any(path.endswith("module.safetensors") for path in ended.left)


def test_no_arguments_get_two_lines_that_say_what_is_missing(command: Callable[..., Any]) -> None:
    refused(command(), [["model: exactly one of", "for instance model.path="], ["data.sources: empty; add one"]])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_gets_one_line(things: dict[str, Path], command: Callable[..., Any]) -> None:
    ended = command(*filled((*RIGHT, "device=cuda"), things))
    refused(ended, [["device=cuda: this machine has no CUDA device; use device=cpu"]])


def test_wandb_without_its_client_gets_one_line(
    things: dict[str, Path], command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlt.config.run.importlib.util.find_spec", lambda name: None)
    ended = command(*filled((*RIGHT, "tracker.wandb=online"), things))
    refused(ended, [["tracker.wandb=online: ", "pip install 'xlt[wandb]'"]])


def test_all_absent_texts_and_treebanks_are_reported_together(
    things: dict[str, Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(things["data"], data)
    for name in ("mono/fo.txt", "mono/gv.txt"):
        (data / name).unlink()
    shutil.rmtree(data / "ud" / "UD_Erzya-JR")
    ended = command("experiment=pos", f"data_dir={data}", f"model.path={things['model']}")
    refused(ended, [["mono/fo.txt: no such file"], ["mono/gv.txt: no such file"], ["UD_Erzya-JR: no such file"]])


def test_a_fault_that_all_language_runs_share_is_said_once(
    things: dict[str, Path], command: Callable[..., Any]
) -> None:
    words = ("experiment=pos", "data_dir={data}", "model.path={model}", "task.max_length=40")
    refused(command(*filled(words, things)), [["task.max_length=128", "has 50 positions"]])


def test_every_job_of_a_sweep_says_its_own_faults_and_nothing_is_left(
    things: dict[str, Path], command: Callable[..., Any]
) -> None:
    ended = command("-m", *filled(RIGHT, things), "train.batch_size=0,-1")
    refused(ended, [["job 0", "train.batch_size=0: must be"], ["job 1", "train.batch_size=-1: must be"]])


def test_a_typo_in_a_sweep_is_said_once(things: dict[str, Path], command: Callable[..., Any]) -> None:
    refused(command("-m", *filled(RIGHT, things), "seed=1,2", "seeed=1"), [["seeed=1: no such key"]])
    refused(command("-m", *filled(RIGHT, things), "seed=1,b"), [["seed=1,b", "'b' of type 'str'"]])
    refused(command("-m", *filled(RIGHT, things), "seed=interval(1,3)"), [["seed=interval(1,3)", "list or a range"]])


def test_a_faulty_job_does_not_stop_the_others_of_its_sweep(
    things: dict[str, Path], command: Callable[..., Any]
) -> None:
    ended = command("-m", *filled(RIGHT, things), "train.batch_size=0,4")
    assert ended.code == 2
    assert [line for line in ended.lines if line.startswith("xlt: ")] == [
        "xlt: job 0 (" + _dirname(ended.lines[0]) + "): train.batch_size=0: must be at least 1"
    ]
    assert sum(path.endswith("module.safetensors") for path in ended.left) == 1
    assert sum(path.endswith("multirun.yaml") for path in ended.left) == 1


@pytest.mark.parametrize("words", [("foo",), ("--nope",), ("seeed=3", "recipe=nope"), ("data_dir=/no/such/folder",)])
def test_the_installed_command_answers_without_a_traceback(words: tuple[str, ...], tmp_path: Path) -> None:
    call = [sys.executable, "-c", "from xlt.commands.cli import main; main()", *words]
    ended = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr and all(line.startswith("xlt: ") for line in ended.stderr.splitlines()), ended.stderr
    assert not ended.stdout
    assert not list(tmp_path.iterdir())


def _dirname(line: str) -> str:
    found = re.search(r"job 0 \((.*?)\): train", line)
    assert found is not None, line
    return found.group(1)


def _listing(things: dict[str, Path]) -> list[str]:
    return sorted(str(path) for thing in things.values() if thing.is_dir() for path in thing.rglob("*"))


_PATHS = ("data_dir={data}", "model.path={model}")
TABLE_MISTAKES: dict[str, tuple[tuple[str, ...], list[list[str]]]] = {
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
    "word that is no override": (("table=pos_unseen", "foo"), [["foo: neither an option nor an override"]]),
    "absent data": (
        ("table=pos_unseen", "data_dir=/no/such/folder", "model.path={model}"),
        [["data_dir=/no/such/folder: no such folder"]],
    ),
}


@pytest.mark.parametrize("name", TABLE_MISTAKES)
def test_a_mistake_in_the_table_command_gets_one_line_and_leaves_nothing(
    name: str,
    things: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words, expected = TABLE_MISTAKES[name]
    with pytest.raises(SystemExit) as stop:
        reproduce_table(filled(words, things))
    said = capsys.readouterr()
    left = [str(path) for path in tmp_path.iterdir()]
    refused(Ended(stop.value.code, said.out, said.err.splitlines(), left), expected)
