"""Lottery-Ticket sparse fine-tuning (thesis §4.3, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from xlt_kernels.select import select_most_changed

from xlt.config import key
from xlt.methods.dense import DenseTensors, tunable_names
from xlt.methods.method import Budget, Method, ModuleReport, Phase, Setting, head_parameters, trained_head
from xlt.methods.random_sft import entry_budget, pack_indices, sparse_report, unpack_indices
from xlt.methods.sparse import SparseDeltas
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleHeader, SparseDelta


@dataclass
class LtSftConfig:
    """Lottery-Ticket sparse fine-tuning."""

    _target_: str = "xlt.methods.lt_sft.LtSft"
    density: float = key("tuned share of the model's parameters", above=0, high=1, hint="thesis range 0.0025 to 0.08")
    l1: float = key("lambda of the L1 term towards the pre-trained values", low=0)
    freeze_layer_norm: bool = key("keep layer normalisation fixed")


SCHEMA = LtSftConfig


class LtSft(Method):
    """Two phases: tune everything, keep the K entries that moved furthest, start again and tune those alone.

    theta1 is the dense phase's selected checkpoint. The K entries are chosen over all tunable tensors together,
    exactly K of them. The task head starts both phases from the same draw and is no part of K. The L1 term
    lambda / N * sum |theta - theta0|, N the parameters of the whole pre-trained model, acts in both phases; its
    gradient is added once a step, so accumulation does not scale it (in the reference code it cancels).

    Weight decay is as the optimiser has it: on the weights in the dense phase, on the deltas in the sparse one.
    """

    name = "lt_sft"

    def __init__(self, density: float, l1: float, freeze_layer_norm: bool) -> None:
        self.density, self.l1, self.freeze_layer_norm = density, l1, freeze_layer_norm
        self._indices: dict[str, Tensor] | None = None
        self._dense: DenseTensors | None = None
        self._sparse: SparseDeltas | None = None

    def phases(self, budget: Budget) -> list[Phase]:
        return [budget.dense_phase("dense"), budget.phase("sparse")]

    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        if phase.name == "dense":
            names = tunable_names(
                model, adapts_language=setting.adapts_language, freeze_layer_norm=self.freeze_layer_norm
            )
            self._dense = DenseTensors(model, names, keep_start=True)
            self._head_start = {name: head.detach().clone() for name, head in head_parameters(model).items()}
        else:
            self._become_sparse(model, setting)
        self._total = model.pretrained_parameters
        self._head = head_parameters(model)

    def _become_sparse(self, model: TransferModel, setting: Setting) -> None:
        if self._indices is None:  # straight from the dense phase: the model holds theta1
            assert self._dense is not None
            names = list(self._dense.parameters)
            after = {name: parameter.detach() for name, parameter in self._dense.parameters.items()}
            budget = entry_budget(model, names, self.density)
            self._indices = select_most_changed(after, self._dense.start, budget)
            self._dense.restore()
            for name, head in head_parameters(model).items():
                head.data.copy_(self._head_start[name])
        else:  # resumed: the model is at theta0, only what a dense phase prepares is missing
            tunable_names(model, adapts_language=setting.adapts_language, freeze_layer_norm=self.freeze_layer_norm)
        self._dense = None
        self._sparse = SparseDeltas(model, self._indices)

    def trainable(self) -> dict[str, nn.Parameter]:
        tuned = self._sparse.deltas if self._sparse is not None else self._dense.parameters  # type: ignore[union-attr]
        return {**tuned, **self._head}

    def before_step(self) -> None:
        if self.l1:
            (self._sparse or self._dense).add_l1(self.l1 / self._total)  # type: ignore[union-attr]

    def write(self, base: Mapping[str, Tensor] | None = None) -> None:
        if self._sparse is not None:
            self._sparse.write(base)

    def rewritten(self) -> Mapping[str, Tensor]:
        return self._sparse.indices if self._sparse is not None else {}

    def state(self) -> dict[str, Tensor]:
        return pack_indices(self._indices)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._indices = unpack_indices(state)

    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        assert self._sparse is not None
        return SparseDelta(header, self._sparse.entries(), trained_head(model))

    def report(self) -> ModuleReport:
        assert self._sparse is not None
        return sparse_report(self._sparse, self._total)
