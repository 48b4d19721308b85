"""How much of the time to plan runs is spent on reading the store, in which many other runs are finished.

    python scripts/bench_store.py --stored 10000 --planned 1000 --output bench_store.json

The store is made up: copies of one run's manifest, result, evaluation and times, with identities of their own. The
planned runs are none of them. The record has the seconds of each question that a plan asks the store: which runs are
there, how long runs of their kind took, which were made by other code, how much state lies in the store. `first` is
with a store that no command has read before, `again` with a new plan in a new store object afterwards.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from benchmark.report import CommandLine, machine, settings, write_record

from xlt.compose import compose, hydra_ready
from xlt.data.sources import digest
from xlt.files import sealed, write_sealed
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore

_WORDS = ("experiment=nano_fields", "language_modules=none")
_KINDS = 20


def main() -> None:
    line = CommandLine(__doc__)
    line.add_count("stored", 10_000, "finished runs in the store")
    line.add_count("planned", 1000, "planned runs, none of which is finished")
    options = line.parse_args()
    with tempfile.TemporaryDirectory(prefix="xlt-store-") as temporary:
        root = Path(temporary)
        template = _template(root)
        began = time.monotonic()
        fill(RunStore(root), template, options.stored)
        record: dict[str, Any] = {**machine(), **settings(options), "filling": round(time.monotonic() - began, 2)}
        for name in ("first", "again"):
            record[name] = ask(root, template, options.planned)
            print(name, record[name], flush=True)
    write_record(record, options.output)


def _template(root: Path) -> Run:
    with hydra_ready():
        plan = Plan(RunStore(root))
        return plan.add(compose([*_WORDS, f"output_dir={root}"]))


def fill(store: RunStore, template: Run, count: int) -> None:
    """Makes up finished runs in a store; they have the files of the template's run, with their own identities."""
    shutil.rmtree(store.runs, ignore_errors=True)
    for number in range(count):
        identity = _identity(template, -1 - number)
        fingerprint = digest(identity)
        folder = store.folder(fingerprint)
        folder.mkdir(parents=True)
        kind = f"kind {number % _KINDS}"
        (folder / "module.safetensors").write_bytes(b"")
        metrics = {"accuracy": 50.0 + number % 50}
        evaluation = {"k": sealed({"metrics": metrics, "identity": {}}, folder.name, "k")}
        (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
        manifest = {
            **{"fingerprint": fingerprint, "kind": kind, "identity": identity, "config": {}, "depends_on": {}},
            **{"finished": "2026-01-01T00:00:00+00:00", "seconds": float(number), "versions": {"xlt": "0"}},
        }
        _write_fast(folder / "manifest.json", manifest)
        _write_fast(folder / "result.json", {"fingerprint": fingerprint, "training": {"seconds": float(number)}})
        _write_fast(folder / "evaluation_time.json", {"kind": kind, "evaluations": 2, "seconds": 3.0})


def _write_fast(path: Path, value: dict[str, Any]) -> None:
    """Writes a sealed file without waiting for the disk, which would take most of the time."""
    with mock.patch.object(os, "fsync"):
        write_sealed(path, value)


def ask(root: Path, template: Run, count: int) -> dict[str, float]:
    """Returns question -> seconds, for a new plan of so many runs."""
    plan = Plan(RunStore(root))
    for number in range(count):
        identity = _identity(template, number)
        config = dataclasses.replace(template.config, experiment_name=f"experiment {number % _KINDS}")
        fingerprint = digest(identity)
        plan.runs[fingerprint] = dataclasses.replace(
            template, fingerprint=fingerprint, identity=identity, config=config
        )
    questions: dict[str, Callable[[], Any]] = {
        "to train": plan.to_train,
        "to evaluate": plan.to_evaluate,
        "rows": plan.rows,
        "made by other code": plan.made_by_other_code,
        "abandoned state": plan.abandoned_state,
    }
    seconds = {}
    for name, question in questions.items():
        began = time.monotonic()
        question()
        seconds[name] = round(time.monotonic() - began, 3)
    return {**seconds, "all": round(sum(seconds.values()), 3)}


def _identity(template: Run, number: int) -> dict[str, Any]:
    identity = copy.deepcopy(template.identity)
    identity["settings"]["seed"] = number
    return identity


if __name__ == "__main__":
    main()
