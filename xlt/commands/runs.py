"""Lists finished runs, shows one, or says why a run is new.

    xlt runs list [output_dir=outputs] [WORD ...]
    xlt runs show FINGERPRINT [output_dir=outputs]
    xlt runs why experiment=pos method=bitfit ...

`list` shows the finished runs, the newest first; with words only those whose experiment, method or model has each word.
`show` says of a run what it was made from, its scores, and where its files are. `why` takes the overrides of a run: for
each run of its plan that is not finished, it shows the finished one that is most like it, and what differs: settings,
data, code, or the runs that it needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from xlt.commands.ending import guarded
from xlt.commands.options import Options
from xlt.errors import UsageError

_KEY = "output_dir="
_SHOWN_DIGITS = 12
_MOST_DIFFERENCES = 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = Options("runs", str(__doc__))
    parser.add_argument("action", choices=("list", "show", "why"), metavar="ACTION", help="list, show or why")
    parser.add_argument("words", nargs="*", metavar="WORD", help="see above; output_dir=FOLDER says where the runs are")
    options = parser.parse(arguments)
    action = {"list": list_runs, "show": show_run, "why": say_why}[options.action]
    guarded(lambda: _print(action(options.words)))


def _print(lines: Iterator[str]) -> int:
    from xlt.console import Terminal

    console = Terminal()
    for line in lines:
        console.print(line, soft_wrap=True)
    return 0


def list_runs(words: Sequence[str]) -> Iterator[str]:
    """Yields a line for each finished run, the newest first.

    Raises:
        UsageError: there is no folder of runs.
    """
    store, words = _store(words)
    facts = [one for one in store.finished().values() if all(word.lower() in one["kind"].lower() for word in words)]
    for one in sorted(facts, key=lambda one: one["finished"], reverse=True):
        yield (
            f"{one['fingerprint'][:_SHOWN_DIGITS]}  {one['finished'][:16].replace('T', ' ')}  "
            f"{one['seconds']:8.0f} s  {one['kind']}"
        )
    yield f"{len(facts)} finished runs"


def show_run(words: Sequence[str]) -> Iterator[str]:
    """Yields lines about one run.

    Raises:
        UsageError: no finished run, or more than one, has this fingerprint.
    """
    store, words = _store(words)
    if len(words) != 1:
        raise UsageError("FINGERPRINT: give one, or its first characters; xlt runs list shows them")
    found = [one["fingerprint"] for one in store.finished().values() if one["fingerprint"].startswith(words[0].lower())]
    if len(found) != 1:
        many = ", ".join(name[:_SHOWN_DIGITS] for name in found)
        what = f"{len(found)} finished runs begin so: {many}" if found else f"no finished run in {store.runs} begins so"
        raise UsageError(f"{words[0]}: {what}")
    (fingerprint,) = found
    manifest, result = store.manifest(fingerprint), store.result(fingerprint)
    yield f"{manifest['kind']}"
    yield f"fingerprint  {fingerprint}"
    yield f"folder       {store.folder(fingerprint)}"
    yield f"finished     {manifest['finished']}, after {manifest['seconds']:.0f} s"
    for name in ("xlt", "torch", "transformers"):
        if name in manifest["versions"]:
            yield f"{name:12} {manifest['versions'][name]}"
    for role, needed in sorted(manifest["depends_on"].items()):
        yield f"needs        {role}: {needed[:_SHOWN_DIGITS]}"
    if (metric := result.get("metric")) is not None and f"best/{metric}" in result["training"]:
        yield f"validation   {metric} {result['training'][f'best/{metric}']:.2f}"
    for key, record in sorted(store.evaluations(fingerprint).items(), key=lambda item: item[1]["source"]):
        scores = "  ".join(f"{name} {value:.2f}" for name, value in record["metrics"].items())
        yield f"{record['source']:12} {record['composition']}: {scores}"
        if (file := store.predictions_file(fingerprint, key)).is_file():
            yield f"{'':12} predictions: {file}"


def say_why(words: Sequence[str]) -> Iterator[str]:
    """Yields lines about each run of a plan that is not finished.

    Raises:
        UsageError: wrong overrides.
    """
    from xlt.compose import command_line, compose, hydra_ready, one_source_per_language
    from xlt.plan.differences import nearest
    from xlt.plan.planner import Plan
    from xlt.plan.store import RunStore

    with command_line(words), hydra_ready():
        config = one_source_per_language(compose(words))
        plan = Plan(RunStore(config.output_dir))
        plan.ask(config)
    new = plan.to_train()
    for run in new:
        yield f"{run.fingerprint[:_SHOWN_DIGITS]}  {run.label}: new"
        like = nearest(plan.store, run.identity, run.kind)
        if like is None:
            yield "  there is no finished run"
            continue
        yield f"  most like it is {like.fingerprint[:_SHOWN_DIGITS]} ({like.kind}, {like.finished[:10]}); it differs in"
        yield from (f"    {difference}" for difference in like.differences[:_MOST_DIFFERENCES])
        if (more := len(like.differences) - _MOST_DIFFERENCES) > 0:
            yield f"    and {more} more parts"
    finished = len(plan.runs) - len(new)
    yield f"{len(new)} of {len(plan.runs)} runs are new; {finished} are finished"


def _store(words: Sequence[str]) -> tuple[Any, list[str]]:
    from xlt.plan.store import RunStore

    folders = [word.removeprefix(_KEY) for word in words if word.startswith(_KEY)]
    store = RunStore(folders[-1] if folders else "outputs")
    if not store.runs.is_dir():
        raise UsageError(f"{_KEY}{store.root}: there are no runs; the folder {store.runs} does not exist")
    return store, [word for word in words if not word.startswith(_KEY)]
