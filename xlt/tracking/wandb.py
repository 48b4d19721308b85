"""Sends a run to Weights & Biases, online or offline. The client is imported only if a run's config uses it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from xlt.compose import recorded
from xlt.engine.build import build_task, method_class, method_name, task_class, task_name
from xlt.engine.composed import files_of
from xlt.engine.run import MODULE_FILE, Composition
from xlt.errors import UsageError
from xlt.plan.planner import Run
from xlt.plan.store import RunStore
from xlt.tracking.wandb_file import count_rows, wait_for_end
from xlt.tracking.wandb_names import NAME_LETTERS, TAG_LETTERS, artifact_name, shortened
from xlt.tracking.wandb_record import WandbRecord

SYSTEMS = "systems"
"""Key in a run's config at W&B for the mapping table -> name of the run in that table."""

_ID_DIGITS = 16
_KEY_DIGITS = 8
_MAX_TAGGED_LANGUAGES = 12
_MANIFEST_KEYS = ("fingerprint", "kind", "depends_on", "finished", "seconds", "commit", "device", "versions")
_CONFIG_KEYS = ("experiment_name", "language", "target", "seed")


class WandbRun:
    """A watcher that sends one run to W&B, under its fingerprint, so that a resumed run continues the same W&B run.

    Row N of W&B's history is record N of `metrics.jsonl`. When a run returns to its saved state, rows that W&B has are
    not sent again, because they will be the same. Rows that W&B does not have, after a kill or because the run began
    without W&B, are sent from the file. Evaluations are one more row, with a table. When the client has ended without
    error, a `WandbRecord` says which other parts W&B has.

    Args:
        run: its config has mode, project, entity and group.
        store: has the run's folder, with the metrics and W&B's offline files, and the modules on which the run builds.
    Raises:
        UsageError: the client is not installed, or there is no account for online use.
    """

    def __init__(self, run: Run, store: RunStore) -> None:
        tracker = run.config.tracker
        try:
            import wandb
        except ImportError as error:
            raise UsageError(
                f"tracker.wandb={tracker.wandb}: the client is not installed; run pip install 'xlt[wandb]'"
            ) from error
        self._planned, self._store, self._folder = run, store, store.folder(run.fingerprint)
        self._task = build_task(run.config.task)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sent_parts = WandbRecord.read(self._folder, tracker)
        self._sent_parts.systems |= (
            run.systems
        )  # also those of other tables, because tags can replace those that W&B has
        name = run.fingerprint[:_ID_DIGITS]
        self._offline = tracker.wandb == "offline"
        sent_rows = count_rows(self._folder, name) if self._offline else 0
        try:
            self._run = wandb.init(
                mode="offline" if self._offline else "online",
                entity=tracker.entity,
                project=tracker.project,
                group=None if tracker.group is None else shortened(tracker.group, NAME_LETTERS),
                job_type=job_type(run),
                tags=[*tags(run), *map(table_tag, self._sent_parts.systems)],
                name=shortened(run.label, NAME_LETTERS),
                id=name,
                resume="allow",
                config={**_extra_config(run), SYSTEMS: self._sent_parts.systems, **recorded(run.config)},
                dir=str(self._folder),
                settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
            )
        except wandb.errors.UsageError as error:
            raise _refusal(error, tracker.wandb) from error
        self._sent = sent_rows if self._offline else self._run.step
        self._record = 0
        self._phases: set[str] = set()
        self._complete = False

    @property
    def where(self) -> str:
        """The address of the run, or for an offline run the command that uploads it."""
        return f"wandb sync {Path(self._run.dir).parent}" if self._offline else str(self._run.url)

    def begin_phase(self, name: str, start: int, steps: int) -> None:
        """Defines the phase's own x axis, and whether a greater value of the task's metric is better."""
        self._phases.add(name)
        step, best = f"{name}/step", "max" if self._task.greater_is_better else "min"
        self._run.define_metric(step, hidden=True)
        self._run.define_metric(f"{name}/*", step_metric=step)
        self._run.define_metric(f"{name}/loss", step_metric=step, summary="min")
        self._run.define_metric(f"{name}/validation/{self._task.metric}", step_metric=step, summary=best)

    def metrics(self, phase: str, step: int, values: Mapping[str, float | None]) -> None:
        if self._record >= self._sent:
            finite = {f"{phase}/{n}": v for n, v in values.items() if v is not None and math.isfinite(v)}
            self._log({f"{phase}/step": step, **finite}, self._record)
        self._record += 1

    def note(self, message: str) -> None: ...

    def rewind(self, lines: int) -> None:
        """Also sends those of the first `lines` records that W&B does not have."""
        self._record = 0
        for record in self._store.metrics(self._planned.fingerprint)[:lines]:
            phase, step = record.pop("phase"), record.pop("step")
            if phase not in self._phases:
                self.begin_phase(phase, 0, 0)
            self.metrics(phase, step, record)

    def written(self) -> int:
        return self._record

    def trained(self) -> None:
        """Sends the summary and, if there is a module, an artifact of it and of the modules it builds on."""
        self._send_records()
        result = self._store.result(self._planned.fingerprint)
        facts = {f"module/{name}": value for name, value in result.get("module", {}).items()}
        self._run.summary.update({**result["training"], **facts})
        if self._planned.config.tracker.artifacts:
            files = (self._store.module_file(fingerprint) for fingerprint in self._planned.depends_on.values())
            self._use(file for file in files if file.is_file())  # a translation has no module file
            if (self._folder / MODULE_FILE).is_file():
                self._run.log_artifact(self._artifact(self._folder / MODULE_FILE))
        self._sent_parts.trained = self._complete = True

    def evaluated(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Sends evaluations as a table, their scores in the summary, and the modules used as inputs of the run."""
        import wandb

        lines = self._send_records()
        if not self._sent_parts.trained:
            self.trained()
        planned = self._planned.evaluations
        names_of_scores = _names_of_scores(planned)
        modules = {key: _files(planned[key]) if key in planned else [] for key in records}
        names = list(dict.fromkeys(name for record in records.values() for name in record["metrics"]))
        signed = list(dict.fromkeys(name for record in records.values() for name in record.get("signatures", {})))
        columns = ["source", "language", "composition", "modules", *names, *(f"signature of {name}" for name in signed)]
        table = wandb.Table(columns=columns)
        scores: dict[str, float] = {}
        for key, record in records.items():
            source, metrics = record["source"], record["metrics"]
            composition = planned[key].name if key in planned else record["composition"]
            used = " + ".join(self._artifact_name(path) for path in modules[key])
            signatures = record.get("signatures", {})
            values = [*(metrics.get(name) for name in names), *(signatures.get(name) for name in signed)]
            table.add_data(source, record.get("language"), composition, used, *values)
            if key in planned:
                scores.update({f"{names_of_scores[key]}/{name}": value for name, value in metrics.items()})
        self._log({"evaluation": table}, max(lines, self._sent))
        self._run.summary.update(scores)
        if self._planned.config.tracker.artifacts:
            self._use({path for paths in modules.values() for path in paths} - {self._folder / MODULE_FILE})
        self._sent_parts.scores = sorted({*self._sent_parts.scores, *planned.keys() & records.keys()})
        self._complete = True

    def send(self) -> None:
        """Sends the parts of a trained run that W&B does not have."""
        if self._sent_parts.unsent_evaluations(self._planned, self._store):
            self.evaluated(self._store.evaluations(self._planned.fingerprint))
        elif not self._sent_parts.trained:
            self.trained()
        self._complete = True

    def close(self) -> None:
        self._run.finish(exit_code=0 if self._complete else 1)
        ended = True
        if self._offline:  # a later command reads what this one has written
            ended = wait_for_end(Path(self._run.dir).parent / f"run-{self._run.id}.wandb")
        if ended:
            self._sent_parts.write(self._folder, self._planned.config.tracker)

    def _send_records(self) -> int:
        """Sends the records of the metrics file that W&B does not have; returns the number of records in the file."""
        lines = len(self._store.metrics(self._planned.fingerprint))
        self.rewind(lines)
        return lines

    def _log(self, values: Mapping[str, Any], row: int) -> None:
        self._run.log(dict(values), step=row, commit=True)
        self._sent = row + 1

    def _use(self, files: Iterable[Path]) -> None:
        """Declares module files as inputs of the run; W&B recognises files that it has by their content."""
        for file in sorted(set(files)):
            if self._offline:  # `use_artifact` does not work offline; this call declares an artifact by its content
                self._run._log_artifact(self._artifact(file), use_after_commit=True)
            else:
                self._run.use_artifact(self._artifact(file))

    def _artifact(self, file: Path) -> Any:
        import wandb

        manifest = self._manifest(file)
        config = manifest.get("config", {})
        metadata = {name: manifest[name] for name in _MANIFEST_KEYS if name in manifest}
        metadata |= {name: config[name] for name in _CONFIG_KEYS if name in config}
        artifact = wandb.Artifact(self._artifact_name(file), type="module", metadata=metadata)
        artifact.add_file(str(file), name=MODULE_FILE, policy="immutable", skip_cache=True)
        return artifact

    def _artifact_name(self, file: Path) -> str:
        return artifact_name("module-" + (file.parent.name if self._manifest(file) else file.stem))

    def _manifest(self, file: Path) -> dict[str, Any]:
        """Returns the manifest of the run that trained a module; empty for a file from elsewhere."""
        return self._store.manifest(file.parent.name) if file.parent.parent == self._store.runs else {}


def check_account(runs: Iterable[Run]) -> None:
    """Refuses to begin if runs are to be sent to W&B and this machine has no account for it; sends nothing.

    Where there is a terminal, W&B's client asks for the account.

    Raises:
        UsageError: there is no account.
    """
    if not any(run.config.tracker.wandb == "online" for run in runs):
        return
    import wandb

    try:
        wandb.setup(settings=wandb.Settings(silent=True))
        wandb.login(verify=False)
    except wandb.errors.UsageError as error:
        raise _refusal(error, "online") from error


def _files(evaluation: Composition) -> list[Path]:
    """Returns the module files that an evaluated model was made of."""
    return [file.path for file in files_of(evaluation.modules)]


def _refusal(error: Exception, mode: str) -> UsageError:
    return UsageError(f"tracker.wandb={mode}: {' '.join(str(error).split())}; or set tracker.wandb=offline")


def score_name(source: str, composition: str, metric: str) -> str:
    """Returns the name of a score in a run's summary."""
    return f"{_evaluation_name(source, composition)}/{metric}"


def _evaluation_name(source: str, composition: str) -> str:
    return f"evaluation/{source}/{composition.replace('+', '_with_')}"


def _names_of_scores(evaluations: Mapping[str, Composition]) -> dict[str, str]:
    """Returns a unique name for the scores of each evaluation in the summary, without the metric.

    If several evaluations have the same source and composition, each name ends in the first digits of its key.
    """
    names = {key: _evaluation_name(wanted.source, wanted.name) for key, wanted in evaluations.items()}
    uses = Counter(names.values())
    return {key: name if uses[name] == 1 else f"{name} [{key[:_KEY_DIGITS]}]" for key, name in names.items()}


def job_type(run: Run) -> str:
    """Returns the kind of a run's result, by which W&B groups runs."""
    if run.job is not None:
        return run.job.noun
    if method_class(run.config.method).leaves_checkpoint:
        return "base model" if run.config.model.student is None else "student"
    return "language module" if task_class(run.config.task).adapts_language else "task module"


def tags(run: Run) -> list[str]:
    """Returns a run's tags: task, method, and its source languages, or their number if there are many."""
    languages = sorted({source.language for source in run.config.data.sources.values()})
    if len(languages) > _MAX_TAGGED_LANGUAGES:
        languages = [f"{len(languages)} languages"]
    names = [task_name(run.config.task), method_name(run.config.method)]
    return [shortened(tag, TAG_LETTERS) for tag in dict.fromkeys([*names, *languages])]


def table_tag(table: str) -> str:
    """Returns the tag of all runs that a table needs."""
    return shortened(f"table:{table}", TAG_LETTERS)


class ShowsRuns(Protocol):
    """An object that says which runs each system of a table shows."""

    def runs(self) -> Mapping[str, Iterable[Run]]:
        """Returns label of a system -> the runs that it shows."""


def name_in_table(table: str, parts: Iterable[ShowsRuns], runs: Iterable[Run]) -> None:
    """Names each run of a plan, in the dashboards of one table, after the systems that show it.

    A run of several systems gets the labels of all. A run that no system shows, because only other runs build on it, is
    named after its kind of result and its method. Each table has names of its own. W&B keeps those of other tables;
    runs made for other tables get this table's tag and name after execution.

    Args:
        table: name of the table.
        parts: the table itself, or the tables whose averages it shows.
        runs: all runs that the table needs; the function writes the names to their `systems`.
    """
    labels: dict[str, dict[str, None]] = {}
    for part in parts:
        for label, shown in part.runs().items():
            for run in shown:
                labels.setdefault(run.fingerprint, {})[label] = None
    for run in runs:
        name = ", ".join(labels.get(run.fingerprint, ()))
        run.systems[table] = name or f"{job_type(run)}, {method_name(run.config.method)}"


def _extra_config(run: Run) -> dict[str, Any]:
    """Returns facts that are not in the config and by which W&B can search and group runs."""
    name = method_name(run.config.method)
    return {"fingerprint": run.fingerprint, "stands_on": run.depends_on, "method_name": name}
