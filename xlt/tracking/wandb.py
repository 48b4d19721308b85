"""Weights & Biases: online, offline, or not at all. The client is imported only where a run asks for it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from xlt.compose import plain
from xlt.engine.build import build_task, method_class, method_name, task_class, task_name
from xlt.engine.run import MODULE_FILE
from xlt.errors import UsageError
from xlt.plan.planner import Run
from xlt.plan.store import RunStore
from xlt.tracking.told import Told
from xlt.tracking.wandb_file import rows_kept, wait_for_end

SYSTEMS = "systems"
"""In a run's config at W&B: table -> what the run is called there."""

_ID_DIGITS = 16
_TAGGED_LANGUAGES = 12
_KEPT_OF_MANIFEST = ("fingerprint", "kind", "depends_on", "finished", "seconds", "commit", "device", "versions")
_KEPT_OF_CONFIG = ("experiment_name", "language", "target", "seed")


class WandbRun:
    """One run at W&B, under its fingerprint, so that a resumed run and its evaluations go on in the same one.

    It follows `metrics.jsonl`: row N of W&B's history is record N of the file. What W&B has is not sent again when a
    run goes back to its saved state (it comes out the same), and what W&B lacks is sent from the file: after a kill,
    or where the run began without W&B. Evaluations follow as a row more, with a table. What of the rest W&B has been
    told is recorded when its client has ended well.

    Args:
        run: its config says mode, project, entity and group.
        store: holds its folder, for the file and what W&B keeps offline, and the modules it stands on.
    Raises:
        UsageError: the client is not installed, or online there is no account.
    """

    def __init__(self, run: Run, store: RunStore) -> None:
        tracker = run.config.tracker
        try:
            import wandb
        except ImportError as error:
            told = f"tracker.wandb={tracker.wandb}: the client is not installed; pip install 'xlt[wandb]'"
            raise UsageError(told) from error
        self._asked, self._store, self._folder = run, store, store.folder(run.fingerprint)
        self._task = build_task(run.config.task)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._told = Told.read(self._folder, tracker)
        self._told.systems |= run.systems  # with those of other tables: tags may replace those that W&B has
        name = run.fingerprint[:_ID_DIGITS]
        self._offline = tracker.wandb == "offline"
        kept = rows_kept(self._folder, name) if self._offline else 0
        try:
            self._run = wandb.init(
                mode="offline" if self._offline else "online",
                entity=tracker.entity,
                project=tracker.project,
                group=tracker.group,
                job_type=job_type(run),
                tags=[*tags(run), *map(table_tag, self._told.systems)],
                name=run.label,
                id=name,
                resume="allow",
                config={**_about(run), SYSTEMS: self._told.systems, **plain(run.config)},
                dir=str(self._folder),
                settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
            )
        except wandb.errors.UsageError as error:
            told = " ".join(str(error).split())
            raise UsageError(f"tracker.wandb={tracker.wandb}: {told}; or give tracker.wandb=offline") from error
        self._sent = kept if self._offline else self._run.step
        self._record = 0
        self._phases: set[str] = set()
        self._complete = False

    @property
    def where(self) -> str:
        """What to open, or to upload."""
        return f"wandb sync {Path(self._run.dir).parent}" if self._offline else str(self._run.url)

    def begin_phase(self, name: str, start: int, steps: int) -> None:
        """Gives the phase its own axis, and the task's metric its direction."""
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
        """Also sends those of the `lines` records that W&B lacks."""
        self._record = 0
        for record in self._store.metrics(self._asked.fingerprint)[:lines]:
            phase, step = record.pop("phase"), record.pop("step")
            if phase not in self._phases:
                self.begin_phase(phase, 0, 0)
            self.metrics(phase, step, record)

    def written(self) -> int:
        return self._record

    def trained(self) -> None:
        """Sums up, and logs the module, if there is one, as an artifact that comes of those it stands on."""
        self._send_records()
        result = self._store.result(self._asked.fingerprint)
        facts = {f"module/{name}": value for name, value in result.get("module", {}).items()}
        self._run.summary.update({**result["training"], **facts})
        if self._asked.config.tracker.artifacts:
            needed = (self._store.module_file(needed) for needed in self._asked.depends_on.values())
            self._use(file for file in needed if file.is_file())  # a translation leaves none
            if (self._folder / MODULE_FILE).is_file():
                self._run.log_artifact(self._artifact(self._folder / MODULE_FILE))
        self._told.trained = self._complete = True

    def evaluated(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """The evaluation grid as a table, its scores in the summary, the modules in use as what the run stands on."""
        import wandb

        lines = self._send_records()
        if not self._told.trained:
            self.trained()
        wanted = self._asked.evaluations
        modules = {key: [file.path for file in wanted[key].modules] if key in wanted else [] for key in records}
        names = list(dict.fromkeys(name for record in records.values() for name in record["metrics"]))
        table = wandb.Table(columns=["source", "language", "composition", "modules", *names])
        scores: dict[str, float] = {}
        for key, record in records.items():
            source, composition, metrics = record["source"], record["composition"], record["metrics"]
            used = " + ".join(self._artifact_name(path) for path in modules[key])
            table.add_data(source, record.get("language"), composition, used, *(metrics.get(name) for name in names))
            if key in wanted:
                scores.update({score_name(source, composition, name): value for name, value in metrics.items()})
        self._log({"evaluation": table}, max(lines, self._sent))
        self._run.summary.update(scores)
        if self._asked.config.tracker.artifacts:
            self._use({path for paths in modules.values() for path in paths} - {self._folder / MODULE_FILE})
        self._told.scores = sorted({*self._told.scores, *wanted.keys() & records.keys()})
        self._complete = True

    def send(self) -> None:
        """Tells W&B what it lacks of a run that is trained, and perhaps evaluated."""
        if self._told.unscored(self._asked, self._store):
            self.evaluated(self._store.evaluations(self._asked.fingerprint))
        elif not self._told.trained:
            self.trained()
        self._complete = True

    def close(self) -> None:
        self._run.finish(exit_code=0 if self._complete else 1)
        ended = True
        if self._offline:  # the next sitting, perhaps of another process, begins with what this one has written
            ended = wait_for_end(Path(self._run.dir).parent / f"run-{self._run.id}.wandb")
        if ended:
            self._told.write(self._folder, self._asked.config.tracker)

    def _send_records(self) -> int:
        """Sends what W&B lacks of the metrics file; returns how many records that has."""
        lines = len(self._store.metrics(self._asked.fingerprint))
        self.rewind(lines)
        return lines

    def _log(self, values: Mapping[str, Any], row: int) -> None:
        self._run.log(dict(values), step=row, commit=True)
        self._sent = row + 1

    def _use(self, files: Iterable[Path]) -> None:
        """Says that the run stands on modules. By their content: where W&B has them it takes them as the same."""
        for file in sorted(set(files)):
            if self._offline:  # `use_artifact` refuses, but this is how it declares an artifact by content
                self._run._log_artifact(self._artifact(file), use_after_commit=True)
            else:
                self._run.use_artifact(self._artifact(file))

    def _artifact(self, file: Path) -> Any:
        import wandb

        manifest = self._manifest(file)
        config = manifest.get("config", {})
        about = {name: manifest[name] for name in _KEPT_OF_MANIFEST if name in manifest}
        about |= {name: config[name] for name in _KEPT_OF_CONFIG if name in config}
        artifact = wandb.Artifact(self._artifact_name(file), type="module", metadata=about)
        artifact.add_file(str(file), name=MODULE_FILE, policy="immutable", skip_cache=True)
        return artifact

    def _artifact_name(self, file: Path) -> str:
        found = self._manifest(file)
        return "module-" + (file.parent.name if found else re.sub(r"[^\w.-]", "-", file.stem))

    def _manifest(self, file: Path) -> dict[str, Any]:
        """Of the run that left a module; empty for a file of the user's."""
        return self._store.manifest(file.parent.name) if file.parent.parent == self._store.runs else {}


def score_name(source: str, composition: str, metric: str) -> str:
    """What a score is called in a run's summary."""
    return f"evaluation/{source}/{composition.replace('+', '_with_')}/{metric}"


def job_type(run: Run) -> str:
    """What the run leaves."""
    if run.job is not None:
        return run.job.noun
    if method_class(run.config.method).leaves_checkpoint:
        return "base model" if run.config.model.student is None else "student"
    return "language module" if task_class(run.config.task).adapts_language else "task module"


def tags(run: Run) -> list[str]:
    """Task, method, and the languages it learns from, if they are not too many to tell."""
    languages = sorted({source.language for source in run.config.data.sources.values()})
    told = languages if len(languages) <= _TAGGED_LANGUAGES else [f"{len(languages)} languages"]
    return list(dict.fromkeys([task_name(run.config.task), method_name(run.config.method), *told]))


def table_tag(table: str) -> str:
    """Of all runs that a table needs, whichever made them."""
    return f"table:{table}"


class ShowsRuns(Protocol):
    """A table, as far as its runs are concerned."""

    def runs(self) -> Mapping[str, Iterable[Run]]:
        """Label of a system -> the runs behind it."""


def name_in_table(table: str, parts: Iterable[ShowsRuns], runs: Iterable[Run]) -> None:
    """Names the runs of a plan for the dashboards of a table, by the systems that show them.

    A run behind several systems bears the labels of all, one that only others stand on what it leaves and its method.
    Each table has names of its own, and W&B keeps those that other tables gave: a run that this one only uses is
    told of it when the plan has been carried out.

    Args:
        table: its name.
        parts: the table itself, or those whose averages it shows.
        runs: all that it needs.
    """
    labels: dict[str, dict[str, None]] = {}
    for part in parts:
        for label, shown in part.runs().items():
            for run in shown:
                labels.setdefault(run.fingerprint, {})[label] = None
    for run in runs:
        name = ", ".join(labels.get(run.fingerprint, ()))
        run.systems[table] = name or f"{job_type(run)}, {method_name(run.config.method)}"


def _about(run: Run) -> dict[str, Any]:
    """What the config does not say itself, to find and group runs by."""
    name = method_name(run.config.method)
    return {"fingerprint": run.fingerprint, "stands_on": run.depends_on, "method_name": name}
