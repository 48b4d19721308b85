"""Lists finished runs, shows one, says why a run is new, or removes runs.

    xlt runs list [output_dir=outputs] [WORD ...]
    xlt runs show FINGERPRINT [output_dir=outputs]
    xlt runs why experiment=pos method=bitfit ...
    xlt runs remove FINGERPRINT ... [--dry-run] [output_dir=outputs]

`list` shows the finished runs, the newest first; with words only those whose experiment, method or model has each word.
`show` says of a run what it was made from, its scores, and where its files are. `why` takes the overrides of a run: for
each run of its plan that is not finished, it shows the finished one that is most like it, and what differs: settings,
data, code, or the runs that it needs. `remove` removes runs with all their files, finished or not. It refuses a run on
which another process works, and one on which runs that are kept stand: they were trained or evaluated with its module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from xlt.commands.ending import guarded, refuse
from xlt.commands.options import Options
from xlt.errors import UsageError

_KEY = "output_dir="
_SHOWN_DIGITS = 12
_MOST_LANGUAGES = 5
_MOST_DIFFERENCES = 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = Options("runs", str(__doc__))
    actions = {"list": list_runs, "show": show_run, "why": say_why}
    parser.add_argument("action", choices=(*actions, "remove"), metavar="ACTION", help="list, show, why or remove")
    parser.add_argument("words", nargs="*", metavar="WORD", help="see above; output_dir=FOLDER says where the runs are")
    removing = parser.add_argument_group("of remove")
    removing.add_argument("--dry-run", action="store_true", help="only say what would be removed, and how large it is")
    removing.add_argument("--with-dependents", action="store_true", help="also remove the runs that stand on these")
    removing.add_argument(
        "--anyway", action="store_true", help="remove these, although runs that are kept stand on them"
    )
    options = parser.parse(arguments)
    given = {"--dry-run": options.dry_run, "--with-dependents": options.with_dependents, "--anyway": options.anyway}
    if options.action != "remove" and any(given.values()):
        refuse([f"{name}: only for xlt runs remove" for name, is_given in given.items() if is_given])
    if options.action != "remove":
        guarded(lambda: _print(actions[options.action](options.words)))
        return
    if options.with_dependents and options.anyway:
        refuse(["--with-dependents, --anyway: give one of them"])
    lines = remove(
        options.words, dry_run=options.dry_run, with_dependents=options.with_dependents, anyway=options.anyway
    )
    guarded(lambda: _print(lines))


def _print(lines: Iterator[str]) -> int:
    from xlt.console import Terminal

    console = Terminal()
    for line in lines:
        console.print(line, soft_wrap=True)
    return 0


def list_runs(words: Sequence[str]) -> Iterator[str]:
    """Yields a line for each finished run, the newest first: with its kind, the languages it learns from, and its seed.

    Runs that are the same in these have up to three of the settings that differ.

    Raises:
        UsageError: there is no folder of runs.
    """
    from xlt.plan.run_names import kept_settings, told_apart

    store, words = _store(words)
    shown, names = [], {}
    for one in sorted(store.finished().values(), key=lambda one: one["finished"], reverse=True):
        languages, seed = _languages_and_seed(store, one["fingerprint"])
        known = f"{one['kind']} {','.join(languages)} {seed}".lower()
        if all(word.lower() in known for word in words):
            shown.append(one)
            names[one["fingerprint"]] = f"{one['kind']}  {_shortened(languages)} {seed}"
    told = told_apart(names, lambda fingerprint: kept_settings(store.manifest(fingerprint).get("config", {})))
    for one in shown:
        finished = one["finished"][:16].replace("T", " ")
        name = told[one["fingerprint"]]
        yield f"{one['fingerprint'][:_SHOWN_DIGITS]}  {finished}  {one['seconds']:8.0f} s  {name}"
    yield f"{len(shown)} finished runs"


def _languages_and_seed(store: Any, fingerprint: str) -> tuple[list[str], str]:
    """Returns the languages that a run learns from, and its seed, which tell runs of one kind apart."""
    config = store.manifest(fingerprint).get("config", {})
    sources = config.get("data", {}).get("sources", {}).values()
    languages = dict.fromkeys(str(source["language"]) for source in sources if source.get("language"))
    return [*languages], f"seed={config.get('seed', '?')}"


def _shortened(languages: Sequence[str]) -> str:
    return ",".join(languages[:_MOST_LANGUAGES]) + (",..." if len(languages) > _MOST_LANGUAGES else "")


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
    languages, seed = _languages_and_seed(store, fingerprint)
    yield f"{manifest['kind']}  {','.join(languages)} {seed}"
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
    evaluations = sorted(store.evaluations(fingerprint).items(), key=lambda item: item[1]["source"])
    files = {key: file for key, _ in evaluations if (file := store.predictions_file(fingerprint, key)).is_file()}
    if files:
        yield f"predictions  {next(iter(files.values())).parent}"
    for key, record in evaluations:
        scores = "  ".join(f"{name} {value:.2f}" for name, value in record["metrics"].items())
        kept = f"  in {files[key].name}" if key in files else ""
        yield f"{record['source']:12} {record['composition']}: {scores}{kept}"


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


def remove(
    words: Sequence[str], *, dry_run: bool = False, with_dependents: bool = False, anyway: bool = False
) -> Iterator[str]:
    """Removes runs; yields a line for each, after it was removed, and one for all.

    Args:
        words: beginnings of fingerprints, and `output_dir=FOLDER`.
        dry_run: remove nothing.
        with_dependents, anyway: as for `xlt.plan.removal.runs_to_remove`.
    Raises:
        UsageError: a run is unknown, is worked on, or is needed; then nothing is removed.
    """
    from xlt.plan.removal import remove_runs, runs_to_remove

    store, words = _store(words)
    if not words:
        raise UsageError("FINGERPRINT: give at least one, or its first characters; xlt runs list shows them")
    chosen = runs_to_remove(store, words, with_dependents=with_dependents, anyway=anyway)
    for one in chosen if dry_run else remove_runs(store, chosen):
        yield f"{one.name}  {one.size_bytes:>13,} bytes  {one.kind}"
    total = sum(one.size_bytes for one in chosen)
    what = "would be removed; nothing was, because of --dry-run" if dry_run else "removed"
    yield f"{len(chosen)} runs, {total:,} bytes: {what}"


def _store(words: Sequence[str]) -> tuple[Any, list[str]]:
    from xlt.plan.store import RunStore

    folders = [word.removeprefix(_KEY) for word in words if word.startswith(_KEY)]
    store = RunStore(folders[-1] if folders else "outputs")
    if not store.runs.is_dir():
        raise UsageError(f"{_KEY}{store.root}: there are no runs; the folder {store.runs} does not exist")
    return store, [word for word in words if not word.startswith(_KEY)]
