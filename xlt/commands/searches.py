"""Shows the trials of a search (`xlt -m search=...`): a table with the best one, a page, and a record on disk."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig

from xlt.commands.sweeps import SweepFolder, link_to_run
from xlt.console import Terminal
from xlt.files import write_json
from xlt.plan.planner import Plan, Run
from xlt.tables.page import JobScores, save_page
from xlt.tables.terminal import SweepRow, print_sweep

STUDY_FILE = "study.json"
_SIGNS = {"maximize": 1.0, "minimize": -1.0}


@dataclass
class Trial:
    """A job that a search chose.

    Attributes:
        number: of the job.
        overrides: of the job; the search chose some of them.
        folder: that Hydra made for the job; it becomes a link to the run's folder.
        state: done, failed, refused, or not finished.
        value: the validation metric of the selected checkpoint; None if the job has none.
        run: the requested run; None if it could not be planned.
    """

    number: int
    overrides: list[str]
    folder: Path
    state: str = "not finished"
    value: float | None = None
    run: Run | None = None


class Search:
    """The trials of the search that Hydra carries out.

    A search is continued by the same command: its sampler is seeded, so it chooses the same trials again, and those
    whose runs are finished take no training.

    Attributes:
        current: the search; None if there is none.
    """

    current: ClassVar[Search | None] = None

    def __init__(self, direction: Any, wanted: int) -> None:
        self.trials: list[Trial] = []
        self._direction = str(getattr(direction, "name", direction))
        self._wanted = wanted
        self._plan: Plan | None = None

    @classmethod
    def job_begins(cls) -> Search | None:
        """Notes that a job begins; returns the search, None if the sweep is no search for a single best value."""
        hydra = HydraConfig.get()
        sweeper = hydra.sweeper
        if "direction" not in sweeper or "n_trials" not in sweeper:
            return None
        words = list(hydra.overrides.task)
        if cls.current is None:
            cls.current = Search(sweeper.direction, int(sweeper.n_trials))
        cls.current.trials.append(Trial(int(hydra.job.num), words, Path(hydra.runtime.output_dir)))
        return cls.current

    def plan_made(self, plan: Plan, run: Run) -> None:
        """Notes the run of the job that has begun."""
        self.trials[-1].run = run
        if self._plan is None:
            self._plan = Plan(plan.store)
        self._plan.runs |= plan.runs

    def job_ended(self, state: str, value: float | None) -> None:
        """Notes how the job that has begun ended."""
        self.trials[-1].state, self.trials[-1].value = state, value

    @classmethod
    def finish(cls) -> None:
        """Prints the trials so far and the best one, and saves them in the folder of the sweep."""
        search, cls.current = cls.current, None
        if search is not None and search.trials:
            search._show()

    def best(self) -> Trial | None:
        """Returns the best trial, of equal ones the first; None if there is none, or several values count."""
        sign = _SIGNS.get(self._direction)
        if sign is None:
            return None
        done = [trial for trial in self.trials if trial.value is not None]
        return max(done, key=lambda trial: sign * float(trial.value or 0.0), default=None)

    def _show(self) -> None:
        best, console = self.best(), Terminal()
        print_sweep([self._row(trial) for trial in self.trials], console)
        if best is not None:
            console.print(f"best of {len(self.trials)} trials: {self._about(best)}", soft_wrap=True)
            console.print(f"evaluate it: xlt {' '.join(best.overrides)}", soft_wrap=True)
        left = self._wanted - sum(trial.state != "not finished" for trial in self.trials)
        if left > 0:
            console.print(f"{left} trials are left; the same command goes on", soft_wrap=True)
        folder = Path(SweepFolder.folder)
        if not folder.is_dir():
            return
        for trial in self.trials:
            if trial.run is not None and self._plan is not None:
                link_to_run(trial.folder, self._plan.store.folder(trial.run.fingerprint))
        write_json(
            folder / STUDY_FILE,
            {
                "direction": self._direction,
                "wanted": self._wanted,
                "best": None if best is None else best.number,
                "trials": [
                    {**_facts(trial), "run": None if trial.run is None else trial.run.fingerprint}
                    for trial in self.trials
                ],
            },
        )
        write_json(folder / "summary.json", [dataclasses.asdict(self._row(trial)) for trial in self.trials])
        runs = [trial.run for trial in self.trials if trial.run is not None]
        if self._plan is not None and runs:
            names = {trial.run.fingerprint: self._name(trial, best) for trial in self.trials if trial.run is not None}
            jobs = [
                JobScores(names[run.fingerprint], run, {}) for run in {one.fingerprint: one for one in runs}.values()
            ]
            title = f"Search: best {self._about(best)}" if best is not None else "Search"
            page = save_page(folder / "sweep.html", title, runs, self._plan.store, {}, None, self._plan, names, jobs)
            Terminal(stderr=True).print(f"{page}", soft_wrap=True)

    def _row(self, trial: Trial) -> SweepRow:
        scores = {} if trial.value is None else {f"validation {self._metric(trial)}": trial.value}
        return SweepRow(trial.number, self._chosen(trial), trial.state, scores, None, self._metric(trial))

    def _about(self, trial: Trial) -> str:
        run = "" if trial.run is None else f" (run {trial.run.fingerprint[:12]})"
        return f"trial {trial.number}, {self._chosen(trial)}: validation {self._metric(trial)} {trial.value:.6g}{run}"

    def _name(self, trial: Trial, best: Trial | None) -> str:
        mark = "best: " if trial is best else ""
        return f"{mark}{trial.number} {self._chosen(trial)}"

    def _chosen(self, trial: Trial) -> str:
        """Returns the overrides that not all trials have; of a single trial, all."""
        common = set.intersection(*(set(one.overrides) for one in self.trials)) if len(self.trials) > 1 else set()
        return " ".join(word for word in trial.overrides if word not in common)

    def _metric(self, trial: Trial) -> str:
        from xlt.engine.build import build_task

        return "metric" if trial.run is None else build_task(trial.run.config.task).metric


def _facts(trial: Trial) -> dict[str, Any]:
    return {name: getattr(trial, name) for name in ("number", "overrides", "state", "value")}
