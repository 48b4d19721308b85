"""Composes configs with Hydra, from a command line or a reference to a run, and checks them against the schema."""

from xlt.compose.checking import checked, plain, recorded, strangers
from xlt.compose.composing import (
    CONFIG_MODULE,
    VERSION_BASE,
    collected_less,
    hydra_ready,
    one_source_per_language,
    own_configs,
    register_schema,
    register_schemas,
)
from xlt.compose.messages import COMPOSITION_ERRORS, group_options, is_composition_error, one_line
from xlt.compose.overrides import override_faults, word_faults
from xlt.compose.runs import (
    compose,
    compose_added_run,
    compose_generator_run,
    compose_language_run,
    compose_model_run,
    compose_start_run,
    compose_student_run,
    compose_teacher_run,
    compose_translator_run,
    compose_varied_run,
    language_run_settings,
    model_run_settings,
)
from xlt.compose.trusted import class_of, command_line

__all__ = [
    "COMPOSITION_ERRORS",
    "CONFIG_MODULE",
    "VERSION_BASE",
    "checked",
    "class_of",
    "collected_less",
    "command_line",
    "compose",
    "compose_added_run",
    "compose_generator_run",
    "compose_language_run",
    "compose_model_run",
    "compose_start_run",
    "compose_student_run",
    "compose_teacher_run",
    "compose_translator_run",
    "compose_varied_run",
    "group_options",
    "hydra_ready",
    "is_composition_error",
    "language_run_settings",
    "model_run_settings",
    "one_line",
    "one_source_per_language",
    "override_faults",
    "own_configs",
    "plain",
    "recorded",
    "register_schema",
    "register_schemas",
    "strangers",
    "word_faults",
]
