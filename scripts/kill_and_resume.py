"""Kills an LT-SFT run with SIGKILL at random moments, resumes it with the same command, and compares the results.

    python scripts/kill_and_resume.py --kills 10 --output kill_and_resume.json

One run is not interrupted. Then, for each trial, the same run is started in a folder of its own, killed with `kill -9`
at a random moment, and the same command is given again until it ends. State is saved after every step; every other kill
waits, from its moment on, until a file is being written. The module's tensors, the metrics file and the names of the
remaining files must be the same, bit for bit; otherwise the exit code is 1. The run tags the fields of English locale
expressions (embedded corpus) with a tiny BERT of random weights, made in a temporary folder, on one thread.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.report import CommandLine, write_record

_MODULE = "module.safetensors"
_STATE = "state.safetensors"
_POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Trial:
    """One killed and resumed run.

    Attributes:
        after_records: the random moment, as the number of metric records written before it.
        seconds: from the start of the process to the kill.
        at: the state on disk after the kill: phase and step of the last state, no state yet, or a finished run.
        writing: names of unfinished files on disk after the kill.
        starts: how often the command was given until the run ended.
        differences: from the uninterrupted run, one line each; none in a correct trial.
    """

    after_records: int
    seconds: float
    at: str
    writing: list[str]
    starts: int
    differences: list[str]


def main() -> int:
    options = _options()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="xlt-kill-") as temporary:
        root = Path(temporary)
        command = _command(_make_model(root / "model"), options.steps, options.overrides)
        print(f"the run: python {' '.join(command[1:])}", flush=True)
        seconds, records = _uninterrupted(command, root / "whole")
        print(f"uninterrupted: {seconds:.1f} s, {records} metric records", flush=True)
        trials = []
        for number in range(1, options.kills + 1):
            trial = _trial(command, root / f"trial-{number}", draw, records, in_a_write=number % 2 == 0)
            trials.append(trial)
            unfinished = f", writing {', '.join(trial.writing)}" if trial.writing else ""
            verdict = "; ".join(trial.differences) or "identical"
            print(f"{number:2d}: killed after {trial.seconds:5.2f} s, {trial.at}{unfinished}: {verdict}", flush=True)
    different = sum(bool(trial.differences) for trial in trials)
    inside = sum(bool(trial.writing) for trial in trials)
    print(f"{len(trials)} kills, {inside} of them inside a write: {len(trials) - different} runs identical")
    record = {
        "command": command[1:],
        "seed": options.seed,
        "uninterrupted_seconds": round(seconds, 2),
        "identical": len(trials) - different,
        "different": different,
        "trials": [asdict(trial) for trial in trials],
    }
    write_record(record, options.output)
    return 1 if different else 0


def _options() -> argparse.Namespace:
    line = CommandLine(__doc__)
    line.set_defaults(output=Path("kill_and_resume.json"))
    line.add_count("kills", 10, "number of trials, with one kill each")
    line.add_argument("--seed", type=int, default=1, help="of the random moments")
    line.add_count("steps", 150, "steps of the sparse phase; the dense phase has half as many")
    line.add_argument("overrides", nargs="*", help="further Hydra overrides of the run")
    return line.parse_args()


def _command(model: Path, steps: int, overrides: list[str]) -> list[str]:
    """The command of the run, without its output folder."""
    other_method = any(word.startswith("method=") and word != "method=lt_sft" for word in overrides)
    return [
        sys.executable,
        "-m",
        "xlt",
        "experiment=nano_fields",
        "model=encoder_mini",
        f"model.path={model}",
        "data=empty",
        "+source@data.sources.eng=locale_expressions",
        "data.sources.eng.language=eng",
        "data.sources.eng.cap=300",
        "+source@data.validation.eng=locale_expressions",
        "data.validation.eng.language=eng",
        "data.validation.eng.split=dev",
        "data.validation.eng.cap=40",
        "language_modules=none",
        "tracker=silent",
        f"train.max_steps={steps}",
        *([] if other_method else [f"method.dense_max_steps={max(1, steps // 2)}"]),
        "train.batch_size=8",
        "train.evaluate_every_steps=10",
        "train.save_every_seconds=0",
        *overrides,
    ]


def _make_model(folder: Path) -> Path:
    """A checkpoint of 2 layers x 64 with random weights and a tokenizer of bytes and a few pairs."""
    from xlt.config import RandomModelConfig
    from xlt.models.loading import quiet_libraries, random_pretrained, save_checkpoint
    from xlt.models.vocabulary import train_tokenizer

    quiet_libraries()
    shape = RandomModelConfig("bert", 2, 64, 2, 128, 96, 400, 0.1)
    tokenizer = train_tokenizer(["Monday, January 1, 2024 at 12:00 PM", "the 3rd of May, $1,234.50"], shape.vocabulary)
    save_checkpoint(random_pretrained(shape, tokenizer, seed=1), tokenizer, folder)
    return folder


def _start(command: list[str], output: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    words = [*command, f"output_dir={output}"]
    # It gets a session of its own, so that a kill also reaches the processes that the run started.
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)


def _uninterrupted(command: list[str], output: Path) -> tuple[float, int]:
    """Runs to the end; returns the seconds that it took and the number of metric records that it wrote."""
    began = time.monotonic()
    code = _start(command, output).wait()
    if code:
        raise SystemExit(f"kill_and_resume.py: the uninterrupted run ended with exit code {code}")
    return time.monotonic() - began, _records(output)


def _trial(command: list[str], folder: Path, draw: random.Random, records: int, in_a_write: bool) -> Trial:
    """One kill and the resumption. If the run ends before its random moment, another moment is drawn for a new run."""
    for attempt in range(20):
        output, moment, delay = folder / str(attempt), draw.randint(0, records), draw.uniform(0, 0.05)
        began = time.monotonic()
        process = _start(command, output)
        while process.poll() is None and _records(output) < moment:
            time.sleep(_POLL_SECONDS)
        time.sleep(delay)
        while in_a_write and process.poll() is None and not _unfinished(output):
            pass
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            seconds = time.monotonic() - began
            process.wait()
            break
        if process.returncode:
            raise SystemExit(
                f"kill_and_resume.py: the run ended with exit code {process.returncode} before it was killed"
            )
    else:
        raise SystemExit("kill_and_resume.py: 20 runs ended before they could be killed; give more --steps")
    at, writing, starts = _position(output), _unfinished(output), 1
    while True:
        starts += 1
        code = _start(command, output).wait()
        if code == 0:
            break
        if starts == 5:
            return Trial(
                moment, round(seconds, 3), at, writing, starts, [f"the resumed run ended with exit code {code}"]
            )
    differences = _differences(folder.parent / "whole", output)
    return Trial(moment, round(seconds, 3), at, writing, starts, differences)


def _records(output: Path) -> int:
    """The number of metric records written so far."""
    return sum(file.read_bytes().count(b"\n") for file in output.glob("runs/*/metrics.jsonl"))


def _position(output: Path) -> str:
    """How far the run on disk has come, in words."""
    from xlt.modules.module_file import read_module_file

    if any(output.glob("runs/*/result.json")):
        return "run finished"
    for file in output.glob(f"runs/*/{_STATE}"):
        position = read_module_file(file)[0]["position"]
        return f"phase {position['phase'] + 1}, step {position['step']}"
    return "no state yet"


def _unfinished(output: Path) -> list[str]:
    """Names of the files that are being written."""
    return sorted(path.name.split(".")[1] for path in output.glob("runs/*/.*.tmp"))


def _differences(whole: Path, resumed: Path) -> list[str]:
    """Differences between two stores, one line each; provenance may differ."""
    differences = []
    names = [_file_names(store) for store in (whole, resumed)]
    if names[0] != names[1]:
        differences.append(f"other files: {sorted(((names[0] - names[1]) + (names[1] - names[0])).elements())}")
    for file in whole.glob(f"runs/*/{_MODULE}"):
        other = resumed / file.relative_to(whole)
        if not other.exists():
            differences.append(f"{file.name} is missing")
            continue
        differences += _tensor_differences(file, other)
        metrics = [path.with_name("metrics.jsonl").read_bytes() for path in (file, other)]
        if metrics[0] != metrics[1]:
            differences.append("metrics.jsonl differs")
    return differences


def _file_names(store: Path) -> Counter[str]:
    return Counter(
        str(path.relative_to(store)) for path in store.rglob("*") if path.is_file() and ".locks" not in path.parts
    )


def _tensor_differences(file: Path, other: Path) -> list[str]:
    from xlt.modules.module_file import read_module_file

    (header, tensors), (header_again, tensors_again) = read_module_file(file), read_module_file(other)
    differences = [] if _without_paths(header) == _without_paths(header_again) else ["the module's header differs"]
    if tensors.keys() != tensors_again.keys():
        return [*differences, "the module's tensors have other names"]
    different = [
        name
        for name, tensor in tensors.items()
        if tensor.dtype != tensors_again[name].dtype
        or tensor.numpy().tobytes() != tensors_again[name].numpy().tobytes()
    ]
    if different:
        differences.append(f"{len(different)} of {len(tensors)} tensors differ, {different[0]} first")
    return differences


def _without_paths(header: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in header.items() if key != "provenance"}


if __name__ == "__main__":
    sys.exit(main())
