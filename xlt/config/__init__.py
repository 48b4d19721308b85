"""The schema that every config is checked against.

A dataclass declares the keys, each with its type, its range and a line of help; the values are in `conf/`. The schema
of a method or a task is in the file of its code; what all runs share is here. `faults` walks through a composed config
and yields a line for each fault; `frozen` makes a checked config read-only.
"""

from xlt.config.data import (
    ALL_PARTS,
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
    NO_MODULE,
    LanguageModulesConfig,
    LauncherConfig,
    RunConfig,
    TaskModulesConfig,
    TrackerConfig,
    TrainConfig,
)
from xlt.config.schema import QUOTE_IT, RunFacts, faults, key, optional, used_keys

__all__ = [
    "ALL_PARTS",
    "NO_MODULE",
    "PARTS",
    "QUOTE_IT",
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
    "optional",
    "used_keys",
]
