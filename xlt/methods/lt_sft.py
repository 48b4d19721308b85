"""Lottery-Ticket sparse fine-tuning (thesis §4.3, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from xlt_kernels.select import select_most_changed

from xlt.config import key
from xlt.config.run import LARGEST_RATE, RATE_HINT
from xlt.methods.dense import DenseTensors, dense_written_entries, tunable_names
from xlt.methods.method import Budget, Method, ModuleReport, Phase, Setting, head_parameters, trained_head
from xlt.methods.random_sft import check_density, entry_budget, pack_indices, sparse_report, unpack_indices
from xlt.methods.sparse import SparseDeltas
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleHeader, SparseDelta


@dataclass
class LtSftConfig:
    """Lottery-Ticket sparse fine-tuning."""

    _target_: str = "xlt.methods.lt_sft.LtSft"
    density: float = key(
        "tuned share of the model's parameters", above=0, high=1, hint="thesis range 0.0025 to 0.08", recipe=True
    )
    l1: float = key("lambda of the L1 term towards the pre-trained values (thesis §4.3.1)", low=0, recipe=True)
    freeze_layer_norm: bool = key("keep layer normalisation fixed (thesis §4.4.2, language modules)", recipe=True)
    dense_epochs: float | None = key("epochs of the dense phase; null: train.epochs", above=0, recipe=True)
    dense_max_steps: int | None = key("most steps of the dense phase; null: train.max_steps", low=1, recipe=True)
    dense_learning_rate: float | None = key(
        "peak rate of the dense phase; null: train.learning_rate", above=0, high=LARGEST_RATE, hint=RATE_HINT,
        recipe=True,
    )  # fmt: skip


SCHEMA = LtSftConfig


class LtSft(Method):
    """A method of two phases: the dense phase trains all entries; the sparse phase trains the K that changed most.

    The sparse phase starts again from the pre-trained values theta0. theta1 is the selected checkpoint of the dense
    phase. Exactly K entries are selected, over all tunable tensors together. The task head starts both phases with the
    same random values and does not count in K. Both phases have the L1 term lambda / N * sum |theta - theta0|, where N
    is the number of parameters of the whole pre-trained model. Its gradient is added once per step, so that gradient
    accumulation does not change it (in the reference code the term has no effect).

    The optimiser's weight decay acts on the weights in the dense phase and on the deltas in the sparse phase.
    """

    name = "lt_sft"

    def __init__(
        self,
        density: float,
        l1: float,
        freeze_layer_norm: bool,
        dense_epochs: float | None,
        dense_max_steps: int | None,
        dense_learning_rate: float | None,
    ) -> None:
        self.density, self.l1, self.freeze_layer_norm = density, l1, freeze_layer_norm
        self.dense_epochs, self.dense_max_steps = dense_epochs, dense_max_steps
        self.dense_learning_rate = dense_learning_rate
        self._indices: dict[str, Tensor] | None = None
        self._dense: DenseTensors | None = None
        self._sparse: SparseDeltas | None = None

    def phases(self, budget: Budget) -> list[Phase]:
        dense = budget.phase(
            "dense",
            epochs=self.dense_epochs,
            max_steps=self.dense_max_steps,
            learning_rate=self.dense_learning_rate,
        )
        return [dense, budget.phase("sparse")]

    def check_model(self, model: TransferModel, *, adapts_language: bool) -> None:
        check_density(model, self.density)

    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        check_density(model, self.density)
        if phase.name == "dense":
            names = tunable_names(
                model, adapts_language=setting.adapts_language, freeze_layer_norm=self.freeze_layer_norm
            )
            self._dense = DenseTensors(model, names, keep_start=True)
            self._head_start = {name: head.detach().clone() for name, head in head_parameters(model).items()}
        else:
            self._start_sparse_phase(model, setting)
        self._total = model.pretrained_parameters
        self._head = head_parameters(model)

    def _start_sparse_phase(self, model: TransferModel, setting: Setting) -> None:
        if self._indices is None:  # the dense phase ended in this process: the model holds theta1
            assert self._dense is not None
            names = list(self._dense.trained)
            after = {name: parameter.detach() for name, parameter in self._dense.trained.items()}
            budget = entry_budget(model, names, self.density)
            self._indices = select_most_changed(after, self._dense.start, budget)
            self._dense.restore()
            for name, head in head_parameters(model).items():
                head.data.copy_(self._head_start[name])
        else:  # a resumed run: the model holds theta0, and only the preparation of the dense phase is missing
            tunable_names(model, adapts_language=setting.adapts_language, freeze_layer_norm=self.freeze_layer_norm)
        self._dense = None
        self._sparse = SparseDeltas(model, self._indices)

    def trainable(self) -> dict[str, nn.Parameter]:
        tuned = self._sparse.deltas if self._sparse is not None else self._dense.trained  # type: ignore[union-attr]
        return {**tuned, **self._head}

    def before_step(self) -> None:
        if self.l1:
            (self._sparse or self._dense).add_l1(self.l1 / self._total)  # type: ignore[union-attr]

    def write(self, base: Mapping[str, Tensor] | None = None) -> None:
        if self._sparse is not None:
            self._sparse.write(base)
        elif self._dense is not None:
            self._dense.write()

    def written_entries(self) -> Mapping[str, Tensor] | None:
        if self._dense is not None:
            return dense_written_entries(self._dense)
        return self._sparse.indices if self._sparse is not None else {}

    def state(self) -> dict[str, Tensor]:
        return pack_indices(self._indices)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._indices = unpack_indices(state)

    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        tuned = self._sparse or self._dense  # in the dense phase the entries are not selected yet
        assert tuned is not None
        return SparseDelta(header, tuned.entries(), trained_head(model))

    def report(self) -> ModuleReport:
        assert self._sparse is not None
        return sparse_report(self._sparse, self._total)
