"""The schema that every config is checked against.

A dataclass says which keys there are, of which type and range, with a line of help; the numbers live in `conf/`. What
belongs to one method or task stands beside its code; what all runs share stands here. `faults` walks a composed
config and returns everything that is wrong with it, a line each.
"""

from xlt.config.data import (
    BenchmarkConfig,
    DataConfig,
    HubConfig,
    InstructionConfig,
    PlannedTranslation,
    SamplingConfig,
    SourceConfig,
    TranslationConfig,
)
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
    "BenchmarkConfig",
    "DataConfig",
    "HubConfig",
    "InstructionConfig",
    "LanguageModulesConfig",
    "LauncherConfig",
    "ModelConfig",
    "PlannedTranslation",
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
    "key",
    "used_keys",
]
