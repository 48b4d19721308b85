"""Wrong files, models and modules: exit code 2, one line for each fault, nothing left behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs.conftest import Ended
from tests.runs.refusals import RIGHT, WITH_MODULE, Mistakes, assert_refused, filled, refused

# Name of the mistake -> words that are added to the right command, and for each expected line its parts.
MISTAKES: Mistakes = {
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
    "unknown reader": (
        ("data.sources.eng.reader=conlu",),
        [["data.sources.eng.reader=conlu: no such reader; there are conll, conllu"]],
    ),
    "output_dir is a file": (("output_dir={lines}",), [["output_dir=", "lines.txt is not a folder"]]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_file_gets_one_line_and_leaves_nothing(
    name: str, input_files: dict[str, Path], command: Callable[..., Ended]
) -> None:
    assert_refused(command, input_files, *MISTAKES[name])


def test_the_command_that_the_mistakes_are_made_in_runs(
    input_files: dict[str, Path], command: Callable[..., Ended]
) -> None:
    ended = command(*filled((*RIGHT, *WITH_MODULE), input_files))
    assert ended.code == 0, ended.lines
    assert any(path.endswith("module.safetensors") for path in ended.left)


def test_all_absent_texts_and_treebanks_are_reported_together(
    input_files: dict[str, Path], command: Callable[..., Ended], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(input_files["data"], data)
    for name in ("mono/fo.txt", "mono/gv.txt"):
        (data / name).unlink()
    shutil.rmtree(data / "ud" / "UD_Erzya-JR")
    ended = command("experiment=pos", f"data_dir={data}", f"model.path={input_files['model']}")
    refused(ended, [["mono/fo.txt: no such file"], ["mono/gv.txt: no such file"], ["UD_Erzya-JR: no such file"]])
