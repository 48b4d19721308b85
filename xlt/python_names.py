"""The names that `import xlt` offers besides its version; each is imported only when it is used.

`xlt/__init__.pyi` has their types.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

PLACE = "xlt.use.python"
NAMES = (
    *("Annotation", "LoadedModel", "ModuleArtefact", "ModuleStack", "Scores", "TrainedRun"),
    *("compose_config", "evaluate", "load_model", "load_module", "predict", "train"),
)


def __getattr__(name: str) -> Any:
    """Imports one of the names; a module's attributes that are not there are looked up so."""
    if name in NAMES:
        return getattr(import_module(PLACE), name)
    raise AttributeError(f"module 'xlt' has no attribute {name!r}")
