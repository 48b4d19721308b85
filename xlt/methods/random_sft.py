"""Random sparse fine-tuning (rand-SFT), the ablation of LT-SFT's selection (thesis §4.4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from xlt_kernels.select import select_at_random

from xlt.config import key
from xlt.errors import UsageError
from xlt.methods.dense import tunable_names
from xlt.methods.method import Method, ModuleReport, Phase, Setting, head_parameters, trained_head
from xlt.methods.sparse import SparseDeltas
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleHeader, SparseDelta

_STATE = "indices/"


@dataclass
class RandomSftConfig:
    """Sparse fine-tuning of entries drawn at random."""

    _target_: str = "xlt.methods.random_sft.RandomSft"
    density: float = key(
        "tuned share of the model's parameters", above=0, high=1, hint="thesis range 0.0025 to 0.08", recipe=True
    )
    l1: float = key("lambda of the L1 term towards the pre-trained values (thesis §4.3.1)", low=0, recipe=True)
    freeze_layer_norm: bool = key("keep layer normalisation fixed (thesis §4.4.2, language modules)", recipe=True)


SCHEMA = RandomSftConfig


class RandomSft(Method):
    """A method that trains K entries drawn uniformly from all tunable tensors, in place.

    K is `density` times the number of parameters of the pre-trained model, rounded, and at most the number of tunable
    entries. Decoupled weight decay, if the recipe has any, pulls the deltas to zero, that is, the weights to their
    pre-trained values.
    """

    name = "random_sft"

    def __init__(self, density: float, l1: float, freeze_layer_norm: bool) -> None:
        self.density, self.l1, self.freeze_layer_norm = density, l1, freeze_layer_norm
        self._indices: dict[str, Tensor] | None = None

    def check_model(self, model: TransferModel, *, adapts_language: bool) -> None:
        check_density(model, self.density)

    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        names = tunable_names(model, adapts_language=setting.adapts_language, freeze_layer_norm=self.freeze_layer_norm)
        self._total = model.pretrained_parameters
        if self._indices is None:
            parameters = dict(model.named_parameters())
            generator = setting.random("selection")
            assert isinstance(generator, torch.Generator)
            shapes = {name: parameters[name].shape for name in names}
            self._indices = select_at_random(shapes, entry_budget(model, names, self.density), generator)
        self._sparse = SparseDeltas(model, self._indices)
        self._head = head_parameters(model)

    def trainable(self) -> dict[str, nn.Parameter]:
        return {**self._sparse.deltas, **self._head}

    def before_step(self) -> None:
        if self.l1:
            self._sparse.add_l1(self.l1 / self._total)

    def write(self, base: Mapping[str, Tensor] | None = None) -> None:
        self._sparse.write(base)

    def written_entries(self) -> Mapping[str, Tensor]:
        return self._sparse.indices

    def state(self) -> dict[str, Tensor]:
        return pack_indices(self._indices)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._indices = unpack_indices(state)

    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        return SparseDelta(header, self._sparse.entries(), trained_head(model))

    def report(self) -> ModuleReport:
        return sparse_report(self._sparse, self._total)


def check_density(model: TransferModel, density: float) -> None:
    """Refuses a density that is no entry of the model; it needs the shapes of the model only.

    Raises:
        UsageError: `density` times the number of pre-trained parameters is rounded to 0.
    """
    total = model.pretrained_parameters
    if round(density * total) < 1:
        raise UsageError(
            f"method.density={density}: of the {total} parameters of model {model.base_name} this is no entry; give "
            f"at least {1 / total:.1g}"
        )


def entry_budget(model: TransferModel, names: list[str], density: float) -> int:
    """Returns K: `density` times the pre-trained model's parameters, at most the tunable entries; see `check_density`.

    Raises:
        UsageError: K would be 0.
    """
    check_density(model, density)
    parameters = dict(model.named_parameters())
    tunable = sum(parameters[name].numel() for name in names)
    return min(round(density * model.pretrained_parameters), tunable)


def sparse_report(sparse: SparseDeltas, total: int) -> ModuleReport:
    """Returns the number of tuned entries and their share of `total`, the pre-trained model's parameters."""
    tuned = sum(delta.numel() for delta in sparse.deltas.values())
    return {"tuned_entries": tuned, "density": tuned / total}


def pack_indices(indices: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Returns the selected indices as a method's state; None, before the selection, gives an empty state."""
    return {_STATE + name: flat.cpu() for name, flat in (indices or {}).items()}


def unpack_indices(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Returns the indices that `pack_indices` put into a state; None if there are none."""
    indices = {name[len(_STATE) :]: flat for name, flat in state.items() if name.startswith(_STATE)}
    return indices or None
