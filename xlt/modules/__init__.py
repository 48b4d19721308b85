"""Modules: what a run produces and other runs build on. Their file formats, and applying and removing them."""

from xlt.modules.adapter_hub import read_adapter_hub, write_adapter_hub
from xlt.modules.artefact import ModuleArtefact, ModuleHeader, check_base, load_module, same_base
from xlt.modules.composable_sft import read_composable_sft, write_composable_sft
from xlt.modules.composition.sum import sum_deltas
from xlt.modules.feature_mixture import Feature, FeatureMixture
from xlt.modules.low_rank import LowRankDelta, Rescaling
from xlt.modules.module_file import ModuleFileError
from xlt.modules.sparse_delta import Entries, SparseDelta
from xlt.modules.stack import ModuleStack

__all__ = [
    "Entries",
    "Feature",
    "FeatureMixture",
    "LowRankDelta",
    "ModuleArtefact",
    "ModuleFileError",
    "ModuleHeader",
    "ModuleStack",
    "Rescaling",
    "SparseDelta",
    "check_base",
    "load_module",
    "read_adapter_hub",
    "read_composable_sft",
    "same_base",
    "sum_deltas",
    "write_adapter_hub",
    "write_composable_sft",
]
