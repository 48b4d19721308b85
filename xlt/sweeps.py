"""What a sweep (`xlt -m`) leaves where nothing came of it: nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig


class JobFailed(Exception):
    """One job of a sweep came to nothing; what it had to say has been said. `code`: its exit code."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(code)


class SweepFolder(Callback):
    """Told by Hydra where a sweep begins, before it makes any folder.

    Attributes:
        made: the folders that the sweep will make, innermost first.
        done: whether a job of it was carried out.
        code: exit code of the first job that came to nothing, 0 if there was none.
    """

    made: ClassVar[list[Path]] = []
    done: ClassVar[bool] = False
    code: ClassVar[int] = 0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        SweepFolder.made = [path for path in (folder, *folder.parents) if not path.exists()]
        SweepFolder.done, SweepFolder.code = False, 0

    @classmethod
    def remove_if_nothing_was_done(cls) -> None:
        """Takes away the folders that a sweep made, unless a job was carried out or left something in them."""
        if cls.done or not cls.made:
            return
        folder = cls.made[0]
        if not any(path.is_file() and path.name != "multirun.yaml" for path in folder.rglob("*")):
            (folder / "multirun.yaml").unlink(missing_ok=True)
            for empty in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
                empty.rmdir()
            with contextlib.suppress(OSError):  # not empty: others use it too
                for path in cls.made:
                    path.rmdir()
        cls.made = []


def end_job(code: int) -> None:
    """Ends a job of a sweep with an exit code, so that the other jobs still have their turn.

    Raises:
        JobFailed: with `code`, from a process that the sweep's launcher started; Hydra hands it to the command.
    """
    if code and HydraConfig.get().launcher._target_ != "hydra._internal.core_plugins.basic_launcher.BasicLauncher":
        raise JobFailed(code)
    SweepFolder.done = SweepFolder.done or not code
    SweepFolder.code = SweepFolder.code or code


def sweep_job() -> str | None:
    """What this job of a sweep is called in messages; None for a single run."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN:
        return None
    return f"job {hydra_config.job.num} ({hydra_config.job.override_dirname})"
