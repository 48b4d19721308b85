"""The schema that every config is checked against.

A dataclass says which keys there are, of which type and range, with a line of help; the numbers live in `conf/`. What
belongs to one method or task stands beside its code; what all runs share stands here. `faults` walks a composed
config and returns everything that is wrong with it, a line each; `frozen` makes a checked one read-only.
"""

from xlt.config.data import (
    PARTS,
    BenchmarkConfig,
    DataConfig,
    HubConfig,
    InstructionConfig,
    SamplingConfig,
    SourceConfig,
    TranslationConfig,
)
from xlt.config.frozen import FrozenConfigError, frozen
from xlt.config.model import ModelConfig, RandomModelConfig, RunReference, StartConfig, StudentConfig, TeacherConfig
from xlt.config.run import (
    LanguageModulesConfig,
    LauncherConfig,
    RunConfig,
    TaskModulesConfig,
    TrackerConfig,
    TrainConfig,
)
from xlt.config.schema import RunFacts, faults, key, used_keys

__all__ = [
    "PARTS",
    "BenchmarkConfig",
    "DataConfig",
    "FrozenConfigError",
    "HubConfig",
    "InstructionConfig",
    "LanguageModulesConfig",
    "LauncherConfig",
    "ModelConfig",
    "RandomModelConfig",
    "RunConfig",
    "RunFacts",
    "RunReference",
    "SamplingConfig",
    "SourceConfig",
    "StartConfig",
    "StudentConfig",
    "TaskModulesConfig",
    "TeacherConfig",
    "TrackerConfig",
    "TrainConfig",
    "TranslationConfig",
    "faults",
    "frozen",
    "key",
    "used_keys",
]
