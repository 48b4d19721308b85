"""Wrong inputs as they come from outside: other kinds of files, broken downloads, left-over variables, wrong names.

Each is refused with exit code 2 and one line for each fault, before anything is written. The configs are composed here
and given to what the command does next, because one composition for each call would take most of the time.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from xlt.commands.cli import run as run_command
from xlt.commands.ending import guarded
from xlt.compose import compose, hydra_ready
from xlt.engine import export
from xlt.methods.lt_sft import LtSft

RIGHT = (
    *("recipe=nano_distil", "tracker=silent", "device=cpu", "task.max_length=40"),
    *("+source@data.sources.eng=ud_eng", "+source@data.validation.eng=ud_eng", "data.validation.eng.split=dev"),
    *("data_dir={data}", "model.path={model}", "output_dir={out}", "train.max_steps=2", "train.evaluate_every_steps=1"),
)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 1225\n"
PAGE = b"<!DOCTYPE html>\n<html><body>Sign in to continue</body></html>\n"
ENG = "data.sources.eng"
FILE = f"+{ENG}.files.train="
LANGUAGE = (
    "task=mlm_lines",
    "task.max_length=40",
    f"{ENG}.reader=text",
    f"{ENG}.path={{lines}}",
    "~data.validation.eng",
)

# Name of the mistake -> what is added to RIGHT, and what the line has to say.
MISTAKES: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "code in capital letters": ((*LANGUAGE, "language=ENG"), ["language=ENG", "eng"]),
    "empty name of a task": (("task.name=''",), ["task.name=: empty"]),
    "blank at the end of a name": (("task.name='pos '",), ["task.name=pos", "blanks at its ends"]),
    "empty name of a method": (("method=pfeiffer", "method.name=''"), ["method.name=: empty"]),
    "empty name of a run": (("experiment_name=''",), ["experiment_name=: empty"]),
    "name in Latin-1": (("experiment_name='caf\udce9'",), ["experiment_name='caf\\udce9'", "not UTF-8"]),
    "no labels": (("task.labels=[]",), ["task.labels=[]: empty"]),
    "label twice": (("task.labels=[NOUN,VERB,DET,NOUN]",), ["task.labels=", "'NOUN' more than once"]),
    "empty label": (("task.labels=[NOUN,VERB,DET,'']",), ["task.labels=", "'' empty"]),
    "infinite rate": (("train.learning_rate=inf",), ["train.learning_rate=inf: must be in (0, 1"]),
    "infinite epochs": (("train.epochs=inf",), ["train.epochs=inf: must be a finite number"]),
    "absolute file": ((f"{FILE}/data/train.conllu",), [f"{FILE[1:]}/data/train.conllu: an absolute path", "path="]),
    "file in a home": ((f"{FILE}'~/train.conllu'",), [f"{FILE[1:]}~/train.conllu: an absolute path"]),
    "stars within a name": ((f"{FILE}'tr**.conllu'",), [f"{FILE[1:]}tr**.conllu: not a pattern"]),
    "only stars": ((f"{FILE}'**'",), [f"{ENG}: ", "no files for split train", "eng_x-ud-train.conllu"]),
    "open bracket": ((f"{FILE}'['",), [f"{ENG}: ", "no files for split train"]),
    "empty file name": ((f"{FILE}''",), [f"{FILE[1:]}: no name of a file"]),
    "incomplete gzip": ((f"{ENG}.path={{half_gzip}}",), ["half.conllu.gz: the gzip file is damaged or incomplete"]),
    "UTF-16": ((f"{ENG}.path={{utf_16}}",), ["utf_16.conllu: the file is UTF-16 text", "iconv -f UTF-16"]),
    "UTF-16 without its mark": ((f"{ENG}.path={{utf_16_le}}",), ["the file is UTF-16 text", "iconv -f UTF-16LE"]),
    "UTF-16 in gzip": ((f"{ENG}.path={{utf_16_gzip}}",), ["utf_16.gz: the file is UTF-16 text"]),
    "UTF-32": ((f"{ENG}.path={{utf_32}}",), ["the file is UTF-32 text"]),
    "zip": ((f"{ENG}.path={{zipped}}",), ["the file is a zip archive"]),
    "bzip2": ((f"{ENG}.path={{bzip2}}",), ["compressed by bzip2", "only gzip is read"]),
    "xz": ((f"{ENG}.path={{xz}}",), ["compressed by xz", "only gzip is read"]),
    "zstd": ((f"{ENG}.path={{zstd}}",), ["compressed by zstd", "only gzip is read"]),
    "Git LFS": ((f"{ENG}.path={{lfs}}",), ["a pointer of Git LFS", "git lfs pull"]),
    "web page": ((f"{ENG}.path={{page}}",), ["a web page"]),
    "carriage returns": ((f"{ENG}.path={{mac}}",), ["carriage returns alone"]),
    "runs is a file": (("output_dir={runs_is_file}",), ["output_dir=", "runs is not a folder"]),
    "name too long for a folder": (("output_dir={out}/" + "x" * 300,), ["output_dir=", "File name too long"]),
    "home of nobody": (("output_dir='~nobody_here/x'",), ["output_dir=~nobody_here/x", "no such user"]),
    "data in a home of nobody": (("data_dir='~nobody_here'",), ["data_dir=~nobody_here", "no such user"]),
    "project that W&B refuses": (("tracker.wandb=offline", "tracker.project=a/b"), ["tracker.project=a/b"]),
    "team that W&B refuses": (("tracker.wandb=offline", "tracker.entity=''"), ["tracker.entity=: not a name"]),
    "model is a file": (("model.path={lines}",), ["model.path=", "no model there"]),
    "model config is a pointer": (("model.path={model_lfs_config}",), ["model.path=", "config.json"]),
    "model config is no JSON": (("model.path={model_bad_config}",), ["model.path=", "config.json"]),
    "model config of an unknown type": (("model.path={model_unknown}",), ["model.path=", "nonesuch"]),
    "tokenizer is no JSON": (("model.path={model_bad_tokenizer}",), ["model.path=", "tokenizer"]),
    "weights are a pointer": (("model.path={model_lfs}",), ["model.path=", "model.safetensors is a pointer"]),
    "weights are incomplete": (("model.path={model_half}",), ["model.path=", "model.safetensors is incomplete"]),
    "a hundred thousand layers": (("model.path={model_layers}",), ["config.json: num_hidden_layers=100000"]),
    "a hidden size of a billion": (("model.path={model_width}",), ["config.json: ", "width 1000000000"]),
    "a vocabulary of a trillion": (("model.path={model_vocabulary}",), ["config.json: vocab_size=1000000000000"]),
    "a billion positions": (("model.path={model_positions}",), ["config.json: max_position_embeddings=1000000000"]),
    "a model config nested too deep": (("model.path={model_nested}",), ["config.json is nested too deep"]),
    "a token number of four billion": (("model.path={model_token}",), ["tokenizer.json: the token", "4000000000"]),
    "a pipe among the model's files": (
        ("model.path={model_pipe}",),
        ["tokenizer.json is a folder, a pipe or a device"],
    ),
    "weights that claim a header of all": (("model.path={model_header}",), ["model.safetensors", "bytes"]),
    "data are a pipe": ((f"{ENG}.path={{pipe}}",), ["pipe.conllu: no such file"]),
    "data are a device": ((f"{ENG}.path=/dev/zero",), ["/dev/zero: no such file"]),
    "a sparse file of a terabyte": ((f"{ENG}.path={{sparse}}",), ["sparse.conllu: is a file of 1000000000000 bytes"]),
    "a bomb of gzip": ((f"{ENG}.path={{gzip_bomb}}",), ["bomb.gz:1: the line is longer than"]),
    "too many threads": (("threads=100000",), ["threads=100000: ", "cores"]),
    "too many workers": (("launcher.workers=100000",), ["launcher.workers=100000: ", "cores"]),
    "random weights that fit no machine": (
        ("model=nano_random", "model.path=null", "model.random.hidden_size=1000000000"),
        ["model.random: ", "too many for this machine"],
    ),
    "an integer of thousands of digits in a model": (("model.path={model_digits}",), ["model.path="]),
    "module is a folder": (("+language_modules.paths.eng={data}",), ["language_modules.paths.eng=", "is a folder"]),
    "module is empty": (("+language_modules.paths.eng={empty}",), ["empty.st: is empty"]),
    "module is a pointer": (("+language_modules.paths.eng={lfs}",), ["lfs.conllu: is"]),
}
VARIABLES = {
    "left-over WORLD_SIZE": ({"WORLD_SIZE": "2"}, ["WORLD_SIZE=2", "RANK, MASTER_ADDR, MASTER_PORT are not set"]),
    "WORLD_SIZE in words": ({"WORLD_SIZE": "two"}, ["WORLD_SIZE=two"]),
    "rank outside of the group": (
        {"WORLD_SIZE": "2", "RANK": "7", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
        ["RANK=7", "from 0 to 1"],
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with hydra_ready():
        yield


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, data_dir: Path) -> dict[str, Path]:
    """Files and folders by the names that MISTAKES gives them."""
    folder = tmp_path_factory.mktemp("outside")
    made = {"data": data_dir, "model": tiny_bert}
    treebank = next((data_dir / "ud" / "UD_English-EWT").glob("*train.conllu")).read_text(encoding="utf-8")

    def file(key: str, name: str, content: bytes) -> None:
        made[key] = folder / name
        made[key].write_bytes(content)

    file("lines", "lines.txt", b"the cat sat\non the mat\n" * 20)
    file("half_gzip", "half.conllu.gz", gzip.compress(treebank.encode() * 50)[:90])
    file("utf_16", "utf_16.conllu", treebank.encode("utf-16"))
    file("utf_16_le", "utf_16_le.conllu", treebank.encode("utf-16-le"))
    file("utf_16_gzip", "utf_16.gz", gzip.compress(treebank.encode("utf-16")))
    file("utf_32", "utf_32.conllu", treebank.encode("utf-32"))
    file("zipped", "zipped.conllu", b"PK\x03\x04" + b"\x14\x00" * 20)
    file("bzip2", "bzip2.conllu", bz2.compress(treebank.encode()))
    file("xz", "xz.conllu", lzma.compress(treebank.encode()))
    file("zstd", "zstd.conllu", b"\x28\xb5\x2f\xfd\x04\x58")
    file("lfs", "lfs.conllu", LFS)
    file("page", "page.conllu", PAGE)
    file("mac", "mac.conllu", treebank.replace("\n", "\r").encode())
    file("empty", "empty.st", b"")
    made["runs_is_file"] = folder / "outputs"
    made["runs_is_file"].mkdir()
    (folder / "outputs" / "runs").write_text("a file")
    weights, config = (tiny_bert / name for name in ("model.safetensors", "config.json"))
    whole = json.loads(config.read_text(encoding="utf-8"))
    for key, name, content in (
        ("model_lfs_config", config.name, LFS),
        ("model_bad_config", config.name, b'{"model_type": "bert",'),
        ("model_unknown", config.name, json.dumps({**whole, "model_type": "nonesuch"}).encode()),
        ("model_bad_tokenizer", "tokenizer.json", b"{"),
        ("model_lfs", weights.name, LFS),
        ("model_half", weights.name, weights.read_bytes()[:5000]),
        *(
            (key, config.name, json.dumps({**whole, size: value}).encode())
            for key, size, value in (
                ("model_layers", "num_hidden_layers", 100_000),
                ("model_width", "hidden_size", 10**9),
                ("model_vocabulary", "vocab_size", 10**12),
                ("model_positions", "max_position_embeddings", 10**9),
            )
        ),
        ("model_nested", config.name, b'{"a": ' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
        ("model_digits", config.name, b'{"num_hidden_layers": ' + b"9" * 5000 + b"}"),
        ("model_token", "tokenizer.json", _with_number(tiny_bert / "tokenizer.json", 4 * 10**9)),
        ("model_header", weights.name, (10**12 - 8).to_bytes(8, "little") + b"{}"),
    ):
        made[key] = folder / key
        shutil.copytree(tiny_bert, made[key])
        (made[key] / name).write_bytes(content)
    with (made["model_header"] / weights.name).open("rb+") as sparse:
        sparse.truncate(10**12)
    made["model_pipe"] = folder / "model_pipe"
    shutil.copytree(tiny_bert, made["model_pipe"])
    (made["model_pipe"] / "tokenizer.json").unlink()
    (made["model_pipe"] / "vocab.txt").write_text("a")
    os.mkfifo(made["model_pipe"] / "tokenizer.json")
    made["pipe"], made["sparse"], made["gzip_bomb"] = (
        folder / name for name in ("pipe.conllu", "sparse.conllu", "bomb.gz")
    )
    os.mkfifo(made["pipe"])
    with made["sparse"].open("wb") as sparse:
        sparse.truncate(10**12)
    with gzip.open(made["gzip_bomb"], "wb") as bomb:
        for _ in range(70):
            bomb.write(b"a" * (1 << 20))
    return made


def _with_number(tokenizer: Path, number: int) -> bytes:
    content = json.loads(tokenizer.read_text(encoding="utf-8"))
    token = list(content["model"]["vocab"])[-1]
    content["model"]["vocab"][token] = number
    return json.dumps(content).encode()


@pytest.fixture
def refused(
    things: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """`refused("task.name=''")`: the lines with which a run with these words is refused; nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XLT_TRACEBACK", raising=False)

    def refuse(*words: str) -> list[str]:
        config = compose([word.format(**things, out=tmp_path / "out") for word in (*RIGHT, *words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            guarded(lambda: run_command(config)[0], str(tmp_path / "out"))
        said = capfd.readouterr()
        lines = said.err.splitlines()
        assert stop.value.code == 2, said
        assert all(line.startswith("xlt: ") for line in lines) and not said.out, said
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and "cache" not in path.parts]
        return lines

    return refuse


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_input_is_one_line_and_leaves_nothing(name: str, refused: Callable[..., list[str]]) -> None:
    words, expected = MISTAKES[name]
    lines = refused(*words)
    assert len(lines) == 1, lines
    (line,) = lines
    assert all(part in line for part in expected), line


@pytest.mark.parametrize("name", VARIABLES)
def test_a_wrong_variable_is_one_line_and_leaves_nothing(
    name: str, refused: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables, expected = VARIABLES[name]
    for variable in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    (line,) = refused()
    assert all(part in line for part in expected), line


def test_a_full_disk_and_a_module_that_cannot_be_stored_are_one_line_before_the_first_step(
    refused: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(export.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        (line,) = refused()
        assert "output_dir=" in line and "0.0 GB are free" in line, line
    monkeypatch.setattr(LtSft, "export", lambda *_: (_ for _ in ()).throw(ValueError("no such layer")))
    (line,) = refused()
    assert "method=lt_sft: " in line and "no such layer" in line, line


def test_there_are_forty_of_them() -> None:
    assert len(MISTAKES) + len(VARIABLES) + 2 >= 40
