"""How long `xlt` takes to answer: version, help, completion, a wrong key, and the plan of a table.

    python scripts/bench_start.py --repeats 3 --output bench_start.json

Each command is a process of its own. The record has the median of its CPU seconds (user and system); another exit code
than the expected one ends the benchmark. `plan` is only the planning of a table's runs, without reading their data, in
this process; its table needs neither data nor a model.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmark.report import CommandLine, machine, settings, write_record

from xlt.compose import command_line, hydra_ready
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore
from xlt.tables.request import request_table

# Name -> words, the line that a shell completes, and the exit code.
_COMMANDS: dict[str, tuple[list[str], str, int]] = {
    "version": (["--version"], "", 0),
    "help": (["--help"], "", 0),
    "help of a subcommand": (["table", "--help"], "", 0),
    "completion": (["-sc", "query=bash"], "xlt experiment=pos train.", 0),
    "wrong key": (["experiment=nano_fields", "train.bath_size=8"], "", 2),
}
_TABLE = "quickstart"


def main() -> None:
    line = CommandLine(__doc__)
    line.add_count("repeats", 3, "processes for each command")
    options = line.parse_args()
    record: dict[str, Any] = {**machine(), **settings(options)}
    for name, (words, completed, code) in _COMMANDS.items():
        runs = [_seconds(words, completed, code) for _ in range(options.repeats)]
        record[name] = round(statistics.median(runs), 3)
        print(name, record[name], flush=True)
    record["plan"] = _plan_seconds()
    print("plan", record["plan"], flush=True)
    write_record(record, options.output)


def _seconds(words: list[str], completed: str, code: int) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [sys.executable, "-m", "xlt", *words],
        env={**os.environ, "COMP_LINE": completed},
        capture_output=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode != code:
        raise SystemExit(f"{' '.join(words)}: exit code {ended.returncode}, not {code}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _plan_seconds() -> dict[str, float]:
    """Returns the number of a table's runs, and the CPU seconds to plan them with all that this process has to read."""
    with tempfile.TemporaryDirectory(prefix="xlt-start-") as folder:
        words = [f"table={_TABLE}", f"output_dir={folder}"]
        with command_line(words), hydra_ready():
            began = time.process_time()
            request = request_table(words)
            plan = Plan(RunStore(request.config.output_dir))
            request.tables(plan)
            return {"runs": len(plan.runs), "seconds": round(time.process_time() - began, 3)}


if __name__ == "__main__":
    main()
