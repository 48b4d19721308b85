"""Makes docs/results: the verdicts on all claims, the tables behind them, and what these stand on.

    python scripts/results.py                                       # tables on the embedded corpus
    python scripts/results.py data_dir=... model.path=...           # those of real data and a small encoder as well
    python scripts/results.py only=[upsampling,shots] seeds=[1,2]   # some claims; other words are as for `xlt claims`
    python scripts/results.py --check                               # which committed results are older than the code

Runs that are in the store are used again, so it can be stopped and started as often as one likes; `--existing` carries
out none. A table that could not be made stands on the page with the reason. No path of the machine is written. What the
numbers mean is written by hand, in docs/results/reading.md, and stands at the top of the page.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xlt.commands.claims import compose_claims
from xlt.commands.ending import guarded
from xlt.compose import command_line, hydra_ready
from xlt.console import Terminal
from xlt.errors import UsageError
from xlt.files import atomic_text, write_json
from xlt.findings.claims import ClaimsConfig, requested_claims
from xlt.findings.verdict import WORDS
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore
from xlt.tables.request import TableRequest, request_table
from xlt.tables.table import Table
from xlt.tables.terminal import table_markdown

FOLDER = Path(__file__).parents[1] / "docs" / "results"
_PLACES = ("data_dir=", "model.path=", "output_dir=")  # words that say where something lies on this machine
_OPTIONS = ("--check", "--existing")
_BESIDE = {"levers_nano": "nano", "weights_nano": "nano"}
"""Tables that no claim stands on -> their store."""


def main() -> None:
    words = sys.argv[1:]
    if "--help" in words or "-h" in words:
        Terminal().print(__doc__, highlight=False, markup=False)
        return
    options = [word for word in words if word in _OPTIONS]
    words = [word for word in words if word not in _OPTIONS]
    with command_line(words):
        guarded(lambda: check(words) if "--check" in options else make(words, carry_out="--existing" not in options))


def make(words: Sequence[str], *, carry_out: bool) -> int:
    """Makes the tables, tests the claims, and writes the folder; returns the exit code."""
    terminal = Terminal(stderr=True)
    with hydra_ready():
        config = compose_claims([word for word in words if _is_setting(word)])
    others = [word for word in words if not _is_setting(word)]
    tables: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    shutil.rmtree(FOLDER / "tables", ignore_errors=True)  # those of the last time
    for name, store in _tables(config).items():
        if store == "decoder" or (store == "encoder" and not any(word.startswith("data_dir=") for word in others)):
            what = "a language model" if store == "decoder" else "data_dir and model.path"
            tables[name] = {"not run": f"needs {what}, which were not given"}
            continue
        table_words = _words_of(config, store, others)
        asked = [f"table={name}", f"seeds={config.seeds}".replace(" ", ""), *table_words]
        terminal.print(f"table {name}", style="bold")
        command = [sys.executable, "-m", "xlt", "table", *asked]
        code = subprocess.run(command, check=False).returncode if carry_out else 0
        if code < 0 or code >= 128:  # a signal
            return code % 256
        try:
            tables[name] = _save_table(name, asked, seconds)
        except UsageError as error:
            tables[name] = {"not run": _without_places(error.lines[0], words)}
    folder = Path(config.output_dir).expanduser()
    command = [sys.executable, "-m", "xlt", "claims", *words]
    if code := subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
        return code
    FOLDER.mkdir(parents=True, exist_ok=True)
    for ending in ("md", "json"):
        with atomic_text(FOLDER / f"claims.{ending}") as file:
            file.write(_without_places((folder / f"claims.{ending}").read_text(encoding="utf-8"), words))
    record = {
        "commit": _git("rev-parse", "HEAD"),
        "changed since": bool(_git("status", "--porcelain", "--", "xlt", "kernels", "conf")),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seeds": list(config.seeds),
        "scale": config.scale,
        "core hours of training": round(sum(seconds.values()) / 3600, 2),
        "tables": tables,
    }
    write_json(FOLDER / "manifest.json", record)
    with atomic_text(FOLDER / "README.md") as file:
        file.write(_page(record, json.loads((FOLDER / "claims.json").read_text(encoding="utf-8"))["claims"]))
    terminal.print(f"{FOLDER}: README.md, claims.md, claims.json, manifest.json, tables", highlight=False)
    return 0


def check(words: Sequence[str]) -> int:
    """Says which of the committed tables stand on runs that the present code would make anew; returns 1 if any does."""
    terminal = Terminal()
    try:
        record = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{FOLDER}: has no manifest.json; make the results first") from error
    older = 0
    for name, about in record["tables"].items():
        if "not run" in about:
            continue
        try:
            _, tables, _ = _planned([f"table={name}", f"seeds={record['seeds']}", *about["words"], *words])
        except UsageError as error:
            terminal.print(f"{name}: cannot be checked here: {error.lines[0]}", highlight=False, markup=False)
            continue
        now = {run.fingerprint for table in tables.values() for runs in table.runs().values() for run in runs}
        older += (differs := now != {*about["runs"]})
        terminal.print(f"{name}: {'older than the code' if differs else 'as the code is'}", highlight=False)
    return 1 if older else 0


def _is_setting(word: str) -> bool:
    """Returns whether a word belongs to the command `xlt claims` itself, not to runs."""
    return word.partition("=")[0].lstrip("+~").split(".")[0] in ClaimsConfig.__dataclass_fields__


def _tables(config: ClaimsConfig) -> dict[str, str]:
    """Returns name of a table -> its store, for all tables of the requested claims; if all are, those beside them."""
    tests = [test for claim in requested_claims(config).values() for test in claim.tests.values()]
    tables = {test.table: test.store for test in tests if config.scale not in test.lacking}
    return tables if config.only else tables | _BESIDE


def _words_of(config: ClaimsConfig, store: str, others: Sequence[str]) -> list[str]:
    given = config.stores[store]
    place = [f"scale={config.scale}", f"output_dir={given.output_dir}"]
    return [*given.overrides, *(others if store == "encoder" else ()), *place]


def _planned(asked: Sequence[str]) -> tuple[TableRequest, Mapping[str, Table], Plan]:
    with hydra_ready():
        request = request_table(list(asked))
        plan = Plan(RunStore(request.config.output_dir))
        tables, faulty = request.tables(plan)
    if faulty:
        raise UsageError(*faulty)
    return request, tables, plan


def _save_table(name: str, asked: Sequence[str], seconds: dict[str, float]) -> dict[str, Any]:
    """Writes a table as far as its runs are finished; returns what the manifest says of it.

    Args:
        name: of the table.
        asked: words of its command.
        seconds: fingerprint of a run -> core seconds of its training; those of the table's runs are added.
    """
    _, tables, plan = _planned(asked)
    grids = {heading: table.grid(plan.store, {}) for heading, table in tables.items()}
    if not any(cell.values for grid in grids.values() for row in grid.cells.values() for cell in row.values()):
        return {"not run": "none of its runs is finished"}
    own, runs, commits, versions, missing = 0.0, [], set(), {}, []
    for heading, grid in grids.items():
        grid.save(table_markdown(grid), FOLDER / "tables")
        missing += [f"{heading}: {row}" for row, cells in grid.cells.items() if any(c.reason for c in cells.values())]
    for run in plan.runs.values():
        manifest = plan.store.manifest(run.fingerprint)
        if manifest is not None and plan.store.is_trained(run.fingerprint):
            seconds[run.fingerprint] = float(manifest["seconds"]) * int(manifest["threads"])
            own += seconds[run.fingerprint]
            commits.add(manifest["commit"])
            versions = manifest["versions"]
    for table in tables.values():
        runs += [run.fingerprint for of_system in table.runs().values() for run in of_system]
    return {
        "words": [word for word in asked if not word.startswith((*_PLACES, "table=", "seeds="))],
        "runs": sorted(set(runs)),
        "core hours of training": round(own / 3600, 2),
        "commits": sorted(filter(None, commits)),
        "versions": versions,
        **({"rows with gaps": missing} if missing else {}),
    }


def _without_places(text: str, words: Sequence[str]) -> str:
    for word in words:
        if word.startswith(_PLACES):
            text = text.replace(word.partition("=")[2], "...")
    return text


def _page(record: Mapping[str, Any], claims: Sequence[Mapping[str, Any]]) -> str:
    """Returns the page of the results as Markdown."""
    hours = record["core hours of training"]
    lines = [
        "# Results",
        "",
        f"Made by `make results` on {record['made'][:10]}, commit {str(record['commit'])[:10]}, {record['scale']} "
        f"scale, seeds {', '.join(map(str, record['seeds']))}, {hours:.1f} core hours of training. Models are small "
        "and steps few: this tests whether the findings of the papers show at a size that two cores can train.",
        "",
    ]
    by_hand = FOLDER / "reading.md"
    if by_hand.is_file():
        lines += [by_hand.read_text(encoding="utf-8").strip(), ""]
    for word in WORDS:
        said = [claim for claim in claims if claim["verdict"] == word]
        if said:
            lines += [f"## {len(said)} of {len(claims)} claims: {word}", ""]
            lines += [*map(_claim_line, said), ""]
    lines += [
        "Every test, with its interval and the runs behind it, is in [claims.md](claims.md).",
        "",
        "## Tables",
        "",
    ]
    for name, about in record["tables"].items():
        if "not run" in about:
            lines.append(f"- {name}: not run; {about['not run']}")
            continue
        saved = sorted(path.stem for path in (FOLDER / "tables").glob("*.md") if _is_of(path.stem, name))
        gaps = f"; {len(about['rows with gaps'])} rows with gaps" if "rows with gaps" in about else ""
        links = ", ".join(f"[{stem}](tables/{stem}.md)" for stem in saved)
        lines.append(f"- {name}: {links} ({about['core hours of training']} core hours{gaps})")
    return "\n".join([*lines, ""])


def _claim_line(claim: Mapping[str, Any]) -> str:
    effects = []
    for label, test in claim["tests"].items():
        if test["mean"] is not None:
            margin = test["margin"]  # which mean and interval do not have any more
            ends = [end + margin for end in test["interval"] or ()]
            interval = " [{:+.1f}, {:+.1f}]".format(*ends) if ends else ""
            above = f", must be above {margin:g}" if margin else ""
            effect = f"{label} {test['mean'] + margin:+.1f}{interval}{above}"
            effects.append(f"{effect}, {test['units']} {test['unit']}, {test['verdict']}")
    return f"- {claim['says']}{' *' + '; '.join(effects) + '*' if effects else ''}"


def _is_of(stem: str, table: str) -> bool:
    """Returns whether a saved table is one of the given name: NAME-HASH, NAME_HEADING or NAME-HASH_HEADING."""
    return stem == table or stem.startswith((f"{table}-", f"{table}_"))


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=FOLDER.parents[1], check=False, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    main()
