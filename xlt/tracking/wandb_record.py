"""Records which parts of a run W&B has received, so that the next command can send those that are missing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from xlt.config import TrackerConfig
from xlt.files import DamagedFileError, read_sealed, set_aside, write_sealed
from xlt.plan.planner import Run
from xlt.plan.store import RunStore

_FILE = "wandb/told.json"


@dataclass
class WandbRecord:
    """Says which parts of a run have arrived at one destination, a W&B project or the offline files.

    A part is added to the record after it has arrived. If sending fails, the part is not in the record, so the next
    command sends it again. If a user deletes the run's folder, or its `wandb` folder, everything is sent again.

    Attributes:
        trained: whether the summary of training and the module have arrived.
        scores: keys of the evaluations whose scores have arrived.
        systems: table -> the name of the run in that table that W&B shows.
    """

    trained: bool = False
    scores: list[str] = field(default_factory=list)
    systems: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def read(folder: Path, tracker: TrackerConfig) -> WandbRecord:
        """Reads the record of the run in `folder` for the destination of `tracker`; it is empty if none was written."""
        return WandbRecord(**_read(folder).get(_destination(tracker), {}))

    def write(self, folder: Path, tracker: TrackerConfig) -> None:
        """Writes the record of this destination to the run's folder; records of other destinations stay as they are."""
        (folder / _FILE).parent.mkdir(exist_ok=True)
        write_sealed(folder / _FILE, {**_read(folder), _destination(tracker): asdict(self)})

    def unsent_evaluations(self, run: Run, store: RunStore) -> set[str]:
        """Returns the keys of the run's finished evaluations whose scores have not been sent."""
        return (run.evaluations.keys() & store.evaluations(run.fingerprint).keys()) - set(self.scores)


def has_unsent(run: Run, store: RunStore) -> bool:
    """Returns whether the run is trained, uses W&B, and has parts that W&B has not received."""
    tracker = run.config.tracker
    if tracker.wandb == "off" or not store.is_trained(run.fingerprint) or store.lacks_manifest(run.fingerprint):
        return False
    sent = WandbRecord.read(store.folder(run.fingerprint), tracker)
    if not sent.trained or sent.unsent_evaluations(run, store):
        return True
    return not run.systems.items() <= sent.systems.items()


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        content = read_sealed(folder / _FILE)
        known = {item.name for item in fields(WandbRecord)}
        if not all(isinstance(record, dict) and record.keys() <= known for record in content.values()):
            raise DamagedFileError("it does not say what W&B has received")
    except DamagedFileError as error:
        set_aside(folder / _FILE, str(error), "everything is sent again")
        return {}
    return content


def _destination(tracker: TrackerConfig) -> str:
    return "offline" if tracker.wandb == "offline" else f"{tracker.entity or ''}/{tracker.project}"
