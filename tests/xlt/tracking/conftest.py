"""A run to be tracked: its config, and what it would leave in its folder; nothing is trained."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from xlt.compose import checked, compose, hydra_ready
from xlt.config import RunConfig
from xlt.engine.run import Composition, ModuleFile, Standing
from xlt.files import write_json
from xlt.plan.planner import Run
from xlt.plan.store import RunStore


@functools.cache
def _config(experiment: str, overrides: tuple[str, ...]) -> RunConfig:
    with hydra_ready():
        return checked(compose([f"experiment={experiment}", "tracker=wandb", "tracker.wandb=offline", *overrides]))


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "outputs")


@pytest.fixture
def make_run(store: RunStore) -> Callable[..., Run]:
    """`make_run("seed=2")`: a task module's run on a base model and an English language module; each of the
    three has left a module, a manifest and a result. Its evaluations: Faroese alone and with a module of Faroese."""

    def leave(fingerprint: str) -> Path:
        folder = store.folder(fingerprint)
        folder.mkdir(parents=True, exist_ok=True)
        store.module_file(fingerprint).write_text(fingerprint)
        manifest = {"fingerprint": fingerprint, "identity": {}, "kind": "some", "seconds": 1.0, "config": {"seed": 1}}
        write_json(folder / "manifest.json", manifest)
        training = {"best/accuracy": 80.0, "best/step": 4, "seconds": 2.5}
        write_json(folder / "result.json", {"training": training, "module": {"density": 0.08}, "metric": "accuracy"})
        return store.module_file(fingerprint)

    def make(*overrides: str, experiment: str = "nano_fields") -> Run:
        base, english, faroese, own = (code * 16 for code in ("ba", "e0", "fa", "ab"))
        for fingerprint in (base, english, faroese):
            leave(fingerprint)
        module, language = ModuleFile(leave(own)), ModuleFile(store.module_file(faroese), "fao")
        return Run(
            fingerprint=own,
            identity={},
            config=_config(experiment, overrides),
            standing=Standing(own, "model", depends_on={"model": base, "eng": english}),
            evaluations={
                "k1": Composition("fao", "task", (module,), "fao", ""),
                "k2": Composition("fao", "task+language", (language, module), "fao", ""),
            },
        )

    return make
