"""What W&B has been told of a run: a record beside what its client keeps, so that an error or a kill loses nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xlt.config import TrackerConfig
from xlt.files import write_json
from xlt.plan.planner import Run
from xlt.plan.store import RunStore

_FILE = "wandb/told.json"


@dataclass
class Told:
    """What one place has been told: W&B online by user or team and project, or the files that are kept offline.

    Written when the place has it, so that whatever comes between the run's result and that is made good by the next
    command. A run that is deleted with its folder, or its `wandb` folder alone, is told anew.

    Attributes:
        trained: summary and module.
        scores: keys of the evaluations whose scores are in the summary.
        systems: table -> what the run is called in it.
    """

    trained: bool = False
    scores: list[str] = field(default_factory=list)
    systems: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def read(folder: Path, tracker: TrackerConfig) -> Told:
        """Of the run in `folder`, the place that `tracker` names; nothing where there is no record."""
        return Told(**_read(folder).get(_place(tracker), {}))

    def write(self, folder: Path, tracker: TrackerConfig) -> None:
        (folder / _FILE).parent.mkdir(exist_ok=True)
        write_json(folder / _FILE, {**_read(folder), _place(tracker): asdict(self)})

    def unscored(self, run: Run, store: RunStore) -> set[str]:
        """Keys of those finished evaluations that are wanted of the run and have not been told."""
        return (run.evaluations.keys() & store.evaluations(run.fingerprint).keys()) - set(self.scores)


def lacks(run: Run, store: RunStore) -> bool:
    """Whether W&B, if the run's config asks for it, has not been told all that is recorded of a trained run."""
    tracker = run.config.tracker
    if tracker.wandb == "off" or not store.is_trained(run.fingerprint) or store.lacks_manifest(run.fingerprint):
        return False
    told = Told.read(store.folder(run.fingerprint), tracker)
    return not told.trained or bool(told.unscored(run, store)) or not run.systems.items() <= told.systems.items()


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / _FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _place(tracker: TrackerConfig) -> str:
    return "offline" if tracker.wandb == "offline" else f"{tracker.entity or ''}/{tracker.project}"
