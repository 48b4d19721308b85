"""Kills whole commands with SIGKILL at random moments, gives them again, and compares what is left with a calm store.

    python scripts/kill_commands.py --kills 60 --output kill_commands.json

Each command is a run of one method, or a table with its page, on the embedded corpus with a tiny BERT of random
weights. It is carried out once without a kill. For each kill it is then begun in a new folder, killed with `kill -9` at
a random moment of its time (while it composes, tokenises, trains, writes, evaluates or draws tables), and given again
until it ends. Modules, checkpoints, metrics, evaluations and tables must be the same as without a kill, and no
temporary file and no note of a lock may be left; otherwise the exit code is 1. The commands are carried out in forks of
this process, so that a kill hits the command and not the import of libraries.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmark.report import CommandLine, write_record
from kill_and_resume import _command, _make_model, _tensor_differences

_METHODS = ("lt_sft", "full", "bitfit", "random_sft", "spiel_ag", "spiel_ma", "pfeiffer", "pretrain")
_TABLE = "table"
_MOST_STARTS = 5
_SYSTEMS = ("lt_sft", "mad_x", "lt_sft_ta")  # left out of the table, because they need language modules


def main() -> int:
    line = CommandLine(__doc__)
    line.add_count("kills", 60, "kills of commands")
    line.add_count("seconds", 3600, "no kill begins after so many seconds")
    line.add_argument("--seed", type=int, default=1, help="of the random moments")
    line.add_argument("--commands", nargs="*", default=[*_METHODS, _TABLE], help="methods, and table")
    options = line.parse_args()
    torch.set_num_threads(1)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    draw, began = random.Random(options.seed), time.monotonic()
    trials: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="xlt-kill-") as temporary:
        root = Path(temporary)
        model = _make_model(root / "model")
        calm: dict[str, float] = {}
        for number in range(options.kills):
            if time.monotonic() - began > options.seconds:
                break
            name = options.commands[number % len(options.commands)]
            words, whole = _words(name, model), root / name
            if name not in calm:
                calm[name] = time.monotonic()
                if (code := _wait(_start(words, whole))) != 0:
                    raise SystemExit(f"kill_commands.py: {name} ends with {code} without a kill; see {whole}.log")
                calm[name] = time.monotonic() - calm[name]
            trial = _trial(words, root / f"trial-{number}", whole, draw.uniform(0, calm[name]))
            trials.append({"command": name, **trial})
            print(f"{number + 1:3d} {name}: {trial}", flush=True)
    wrong = sum(bool(trial["differences"]) for trial in trials)
    left = sum(bool(trial["left_over"]) for trial in trials)
    print(f"{len(trials)} kills: {wrong} wrong, {left} with left-overs")
    write_record({"seed": options.seed, "wrong": wrong, "left_over": left, "trials": trials}, options.output)
    return 1 if wrong or left else 0


def _words(name: str, model: Path) -> list[str]:
    """The words of a command, without its output folder."""
    language = [
        word
        for code in ("eng", "fao")
        for word in (
            f"+source@data.evaluation.{code}=locale_expressions",
            f"data.evaluation.{code}.language={code}",
            f"data.evaluation.{code}.split=test",
            f"data.evaluation.{code}.cap=20",
        )
    ]
    method = [] if name == _TABLE else [f"method={name}"]
    words = [*_command(model, 20, method or ["method=full"])[3:], *language]
    if name != _TABLE:
        return words
    own = [word for word in words if not word.startswith(("method", "experiment=", "tracker="))]
    return [
        "table=quickstart",
        "seeds=[1]",
        "launcher.workers=1",
        "table.columns=[eng,fao]",
        "table.average=[fao]",
        *(f"~table.parts.fields.systems.{system}" for system in _SYSTEMS),
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
        if words[0].startswith("table="):
            from xlt.commands.reproduce import main as reproduce

            reproduce([*words, f"output_dir={output}"])
        else:
            from xlt.commands.cli import main as run

            sys.argv = ["xlt", *words, f"output_dir={output}"]
            run()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)


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
    starts, code = 0, -1
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
        elif file.name in ("metrics.jsonl", "model.safetensors", "tokenizer.json") or file.suffix == ".arrow":
            lines += [f"{name} differs"] if file.read_bytes() != other.read_bytes() else []
        elif file.name == "evaluation.json" or ("tables" in file.parts and file.suffix == ".json"):
            lines += [f"{name} differs"] if _numbers(file) != _numbers(other) else []
    return lines


def _numbers(file: Path) -> Any:
    """The content of a JSON file without times and checksums."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {n: kept(part) for n, part in value.items() if n not in ("finished", "checksum", "cost")}
        return [kept(part) for part in value] if isinstance(value, list) else value

    return kept(json.loads(file.read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.exit(main())
