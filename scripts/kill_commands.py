"""Kills whole commands with SIGKILL at random moments, gives them again, and compares what is left with a calm store.

    python scripts/kill_commands.py --kills 60 --output kill_commands.json

The commands are runs of one method, a run that spends most of its time on tokenising, a sweep, a table with its page,
a picture, and exports to and imports from AdapterHub's format; all with a tiny BERT of random weights on the embedded
corpus. Each is carried out once without a kill. For each kill it is then begun in a new folder, killed with `kill -9`
at a random moment of its time (while it composes, tokenises, trains, writes, evaluates or draws tables), and given
again until it ends. Modules, checkpoints, metrics, evaluations, tables, feature caches, pictures and exports must be
the same as without a kill, and no temporary file and no note of a lock may be left; otherwise the exit code is 1. The
commands are carried out in forks of this process, so that a kill hits the command and not the import of libraries.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmark.report import CommandLine, write_record
from kill_and_resume import _command, _make_model, _tensor_differences

_METHODS = ("lt_sft", "full", "bitfit", "random_sft", "spiel_ag", "spiel_ma", "pfeiffer", "pretrain")
_TABLE, _SWEEP, _CACHE, _PICTURE, _EXPORT, _IMPORT = "table", "sweep", "cache", "picture", "export", "import"
_EXPORTED = "hub"  # the folder that an export makes
_STEPS = 6
_MOST_STARTS = 5
_NEEDS = {_PICTURE: [_TABLE], _EXPORT: ["pfeiffer"], _IMPORT: [_EXPORT]}  # whose calm results a command begins with
_SAME_BYTES = ("metrics.jsonl", "model.safetensors", "tokenizer.json")
_COMMANDS = [*_METHODS, _TABLE, _SWEEP, _CACHE, _PICTURE, _EXPORT, _IMPORT]
_STUDENTS = ("scratch_2", "bistil_st_2", "bistil_tf_2")  # left out of the table, because they take long


def main() -> int:
    line = CommandLine(__doc__)
    line.add_count("kills", 60, "kills of commands")
    line.add_count("seconds", 3600, "no kill begins after so many seconds")
    line.add_argument("--seed", type=int, default=1, help="of the random moments")
    line.add_argument("--commands", nargs="*", default=_COMMANDS, help="names of commands")
    options = line.parse_args()
    torch.set_num_threads(1)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    draw, began = random.Random(options.seed), time.monotonic()
    trials: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="xlt-kill-") as temporary:
        root = Path(temporary)
        model = _make_model(root / "model")
        _import_all(model)
        calm: dict[str, float] = {}

        def calmly(name: str) -> None:
            if name in calm:
                return
            for other in _NEEDS.get(name, ()):
                calmly(other)
            _prepare(name, root, root / name)
            begun = time.monotonic()
            if (code := _wait(_start(_words(name, model, root, root / name), root / name))) != 0:
                raise SystemExit(f"kill_commands.py: {name} ends with {code} without a kill; see {root / name}.log")
            calm[name] = time.monotonic() - begun

        for number in range(options.kills):
            if time.monotonic() - began > options.seconds:
                break
            name = options.commands[number % len(options.commands)]
            calmly(name)
            output = root / f"trial-{number}"
            _prepare(name, root, output)
            trial = _trial(_words(name, model, root, output), output, root / name, draw.uniform(0, calm[name]))
            trials.append({"command": name, **trial})
            print(f"{number + 1:3d} {name}: {trial}", flush=True)
            if not trial["differences"] and not trial["left_over"]:
                shutil.rmtree(output)
    wrong = sum(bool(trial["differences"]) for trial in trials)
    left = sum(bool(trial["left_over"]) for trial in trials)
    print(f"{len(trials)} kills: {wrong} wrong, {left} with left-overs")
    write_record({"seed": options.seed, "wrong": wrong, "left_over": left, "trials": trials}, options.output)
    return 1 if wrong or left else 0


def _import_all(model: Path) -> None:
    """Imports what the commands import, and makes the corpus of the embedded data, which forks then have."""
    import convert_module  # noqa: F401
    import datasets  # noqa: F401
    import matplotlib.figure  # noqa: F401

    from xlt.commands import cli, plot, reproduce  # noqa: F401
    from xlt.compose import checked, compose, hydra_ready
    from xlt.data.sources import read_source
    from xlt.execution import execution  # noqa: F401
    from xlt.tables import page  # noqa: F401

    with hydra_ready():
        data = checked(compose([*_command(model, 1, ["method=full"])[3:]])).data
    for source in (data.sources["eng"], data.validation["eng"]):
        for language in ("eng", "fao"):
            list(read_source("warm-up", dataclasses.replace(source, language=language), 1))


def _prepare(name: str, root: Path, output: Path) -> None:
    """Makes the folder in which a command begins: a picture is drawn from a finished table, others begin with nothing.

    Args:
        name: of the command.
        root: folder with the calm results of the commands, by their names.
        output: folder to make.
    """
    if name == _PICTURE:
        shutil.copytree(root / _TABLE, output)
        for file in (output / "tables").iterdir():
            file.unlink()
    else:
        output.mkdir()


def _words(name: str, model: Path, root: Path, output: Path) -> list[str]:
    """Returns the words of a command, of which the first names the program."""
    if name == _EXPORT:
        (module,) = (root / "pfeiffer").glob("runs/*/module.safetensors")
        words = ["convert_module", str(module), "--model", str(model), "--name", "x", "--without-head"]
        return [*words, "--output", str(output / _EXPORTED)]
    if name == _IMPORT:
        given, task = root / _EXPORT / _EXPORTED, ["--task", "pos"]
        return ["convert_module", str(given), "--model", str(model), *task, "--output", str(output / "module.st")]
    tokenises = name == _CACHE
    language = [
        word
        for code in ("eng", "fao")
        for word in (
            f"+source@data.evaluation.{code}=locale_expressions",
            f"data.evaluation.{code}.language={code}",
            f"data.evaluation.{code}.split=test",
            f"data.evaluation.{code}.cap={600 if tokenises else 10}",
        )
    ]
    method = [f"method={name}"] if name in _METHODS else ["method=full"]
    steps = 1 if tokenises else _STEPS
    words = [*_command(model, steps, method)[3:], *language, f"data.sources.eng.cap={600 if tokenises else 100}"]
    words = [word for word in words if not word.startswith("train.evaluate_every_steps=")]
    words += ["train.evaluate_every_steps=3", f"output_dir={output}"]
    if name.startswith("spiel"):
        words += ["method.update_interval=2", *(["method.estimation_steps=1"] if name == "spiel_ag" else [])]
    if name == _SWEEP:
        own = [word for word in words if not word.startswith("method=")]
        return ["xlt", "-m", *own, "method=bitfit,random_sft", f"hydra.sweep.dir={output}/sweep"]
    if name not in (_TABLE, _PICTURE):
        return ["xlt", *words]
    own = [word for word in words if not word.startswith(("method", "experiment=", "tracker="))]
    return [
        *(["reproduce_table", "table=bistil_nano"] if name == _TABLE else ["plot", "figure=bistil_nano"]),
        "seeds=[1,2]",
        "launcher.workers=1",
        "table.columns=[fao]",
        "table.parts.fields.systems.lt_sft.composition=task",
        "method.dense_max_steps=4",
        *(f"~table.parts.fields.systems.{system}" for system in _STUDENTS),
        *own,
    ]


def _start(words: Sequence[str], output: Path) -> int:
    """Begins a command in a fork with a session of its own; returns its process number."""
    sys.stdout.flush()
    if (pid := os.fork()) != 0:
        return pid
    os.setsid()
    log = os.open(f"{output}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    code = 1
    try:
        _call(words)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)


def _call(words: Sequence[str]) -> None:
    from convert_module import main as convert_module

    from xlt.commands import cli, plot, reproduce

    mains: dict[str, Callable[[], None]] = {
        "reproduce_table": reproduce.main,
        "plot": plot.main,
        "convert_module": convert_module,
        "xlt": cli.main,
    }
    sys.argv = list(words)
    mains[words[0]]()


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _trial(words: Sequence[str], output: Path, whole: Path, moment: float) -> dict[str, Any]:
    pid = _start(words, output)
    until = time.monotonic() + moment
    while time.monotonic() < until and os.waitpid(pid, os.WNOHANG) == (0, 0):
        time.sleep(0.002)
    try:
        os.killpg(pid, signal.SIGKILL)
        _wait(pid)
    except (ProcessLookupError, ChildProcessError):  # it had ended
        pass
    unfinished = sorted(path.name.split(".")[1] for path in output.rglob("*.tmp"))
    # An export never replaces a folder, so that it is not given again if it was killed after its last write.
    starts, code = 0, 0 if (output / _EXPORTED).exists() else -1
    while code != 0 and starts < _MOST_STARTS:
        starts += 1
        code = _wait(_start(words, output))
    if code != 0:
        return {"after": round(moment, 2), "differences": [f"ends with {code}; see {output}.log"], "left_over": []}
    left = sorted(str(path.relative_to(output)) for end in ("tmp", "holder") for path in output.rglob(f"*.{end}"))
    differences = _differences(whole, output)
    return {
        "after": round(moment, 2),
        "writing": unfinished,
        "starts": starts,
        "differences": differences,
        "left_over": left,
    }


def _differences(whole: Path, resumed: Path) -> list[str]:
    """Differences between two stores, one line each; times, machines and paths may differ."""
    lines = []
    for file in sorted(path for path in whole.rglob("*") if path.is_file() and ".locks" not in path.parts):
        other = resumed / file.relative_to(whole)
        name = str(file.relative_to(whole))
        if not other.is_file():
            lines.append(f"{name} is missing")
        elif file.name == "module.safetensors":
            lines += [f"{name}: {line}" for line in _tensor_differences(file, other)]
        elif file.name in _SAME_BYTES or file.suffix in (".arrow", ".png", ".svg", ".st") or _EXPORTED in file.parts:
            lines += [f"{name} differs"] if file.read_bytes() != other.read_bytes() else []
        elif file.suffix == ".html":
            lines += [] if other.read_text(encoding="utf-8").rstrip().endswith("</html>") else [f"{name} has no end"]
        elif file.name == "summary.json":
            lines += [f"{name} differs"] if _scores(file) != _scores(other) else []
        elif file.name == "evaluation.json" or ("tables" in file.parts and file.suffix == ".json"):
            lines += [f"{name} differs"] if _numbers(file) != _numbers(other) else []
    return lines


def _scores(file: Path) -> Any:
    """The scores of each job of a sweep."""
    return [(row["overrides"], row["scores"]) for row in json.loads(file.read_text(encoding="utf-8"))]


def _numbers(file: Path) -> Any:
    """The content of a JSON file without times and checksums."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {n: kept(part) for n, part in value.items() if n not in ("finished", "checksum", "cost")}
        return [kept(part) for part in value] if isinstance(value, list) else value

    return kept(json.loads(file.read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.exit(main())
