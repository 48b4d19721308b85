"""Lottery-Ticket sparse fine-tuning (thesis §4.3, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from xlt_kernels.select import select_most_changed, select_with_overlap

from xlt.config import key
from xlt.config.run import LARGEST_RATE, RATE_HINT
from xlt.errors import UsageError
from xlt.languages import language_fault
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
    among: list[str] = key(
        "patterns of names of tensors, such as *.layer.[0-5].*: entries are only of these; empty: of all", recipe=True
    )
    overlap: float | None = key(
        "share of the entries that the module of overlap_with has, too; null: as it comes", low=0, high=1, recipe=True
    )
    overlap_with: str | None = key("language whose module's entries `overlap` is about", recipe=True)

    def faults(self, prefix: str) -> Iterator[str]:
        if (self.overlap is None) != (self.overlap_with is None):
            given, absent = ("overlap", "overlap_with") if self.overlap_with is None else ("overlap_with", "overlap")
            yield f"{prefix}.{given}={getattr(self, given)}: needs {prefix}.{absent}; give both or neither"
        if self.overlap_with is not None and (fault := language_fault(self.overlap_with)) is not None:
            yield f"{prefix}.overlap_with={self.overlap_with}: {fault}"
        for pattern in self.among:
            if not pattern.strip():
                yield f"{prefix}.among: an empty pattern; give one such as *.layer.[0-5].*"


SCHEMA = LtSftConfig


class LtSft(Method):
    """A method of two phases: the dense phase trains all entries; the sparse phase trains the K that changed most.

    The sparse phase starts again from the pre-trained values theta0. theta1 is the selected checkpoint of the dense
    phase. Exactly K entries are selected, over all tunable tensors together. The task head starts both phases with the
    same random values and does not count in K. Both phases have the L1 term lambda / N * sum |theta - theta0|, where N
    is the number of parameters of the whole pre-trained model. Its gradient is added once per step, so that gradient
    accumulation does not change it (in the reference code the term has no effect).

    The optimiser's weight decay acts on the weights in the dense phase and on the deltas in the sparse phase.

    With `among`, only entries of some tensors are selected, so that language and task modules can have masks that are
    disjoint a priori. With `overlap`, exactly round(overlap K) entries are of those that another language's module has,
    and no others are (thesis §4.5.2, its open question). The dense phase is the same in both cases. The thesis would
    select the shared entries by the changes of both dense phases together; here the language module is as it is, so
    that modules which differ in their overlap can be compared with one language module.
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
        among: Sequence[str],
        overlap: float | None,
        overlap_with: str | None,
    ) -> None:
        self.density, self.l1, self.freeze_layer_norm = density, l1, freeze_layer_norm
        self.dense_epochs, self.dense_max_steps = dense_epochs, dense_max_steps
        self.dense_learning_rate = dense_learning_rate
        self.among, self.overlap, self.overlap_with = tuple(among), overlap, overlap_with
        self._indices: dict[str, Tensor] | None = None
        self._dense: DenseTensors | None = None
        self._sparse: SparseDeltas | None = None

    @classmethod
    def overlaps_with(cls, config: LtSftConfig) -> str | None:
        return config.overlap_with

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
        pretrained = [name for name, _ in model.named_parameters() if name.startswith(("backbone.", "lm_head."))]
        self._budget(model, self._selectable(pretrained))

    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        check_density(model, self.density)
        if phase.name == "dense":
            names = tunable_names(
                model, adapts_language=setting.adapts_language, freeze_layer_norm=self.freeze_layer_norm
            )
            self._check_overlap(model, self._selectable(names), setting)
            self._dense = DenseTensors(model, names, keep_start=True)
            self._head_start = {name: head.detach().clone() for name, head in head_parameters(model).items()}
        else:
            self._start_sparse_phase(model, setting)
        self._total = model.pretrained_parameters
        self._head = head_parameters(model)

    def _start_sparse_phase(self, model: TransferModel, setting: Setting) -> None:
        if self._indices is None:  # the dense phase ended in this process: the model holds theta1
            assert self._dense is not None
            names = self._selectable(self._dense.trained)
            after = {name: self._dense.trained[name].detach() for name in names}
            before = {name: self._dense.start[name] for name in names}
            budget = self._budget(model, names)
            if self.overlap is None:
                self._indices = select_most_changed(after, before, budget)
            else:
                shared = round(self.overlap * budget)
                self._indices = select_with_overlap(after, before, budget, shared, _indices_of(setting))
            self._dense.restore()
            for name, head in head_parameters(model).items():
                head.data.copy_(self._head_start[name])
        else:  # a resumed run: the model holds theta0, and only the preparation of the dense phase is missing
            tunable_names(model, adapts_language=setting.adapts_language, freeze_layer_norm=self.freeze_layer_norm)
        self._dense = None
        self._sparse = SparseDeltas(model, self._indices)
        if self.overlap is not None:
            self._shared = _count_shared(self._indices, _indices_of(setting))

    def _selectable(self, names: Iterable[str]) -> list[str]:
        """Returns the tensors of which entries may be selected.

        Raises:
            UsageError: a pattern of `among` is that of no tensor.
        """
        names = list(names)
        if not self.among:
            return names
        for pattern in self.among:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UsageError(
                    f"method.among: {pattern} is the name of no tensor that is tuned; there are {names[0]}, "
                    f"{names[-1]} and {len(names) - 2} others"
                )
        return [name for name in names if any(fnmatchcase(name, pattern) for pattern in self.among)]

    def _budget(self, model: TransferModel, names: list[str]) -> int:
        """Returns K; with `among` or `overlap`, of which modules of equal size are wanted, K must be there."""
        budget = entry_budget(model, names, self.density)
        if (self.among or self.overlap is not None) and budget < round(self.density * model.pretrained_parameters):
            wanted = round(self.density * model.pretrained_parameters)
            raise UsageError(
                f"method.density={self.density}: {wanted} entries, but {budget} can be selected; give a lower density"
                + (", or more tensors in method.among" if self.among else "")
            )
        return budget

    def _check_overlap(self, model: TransferModel, names: list[str], setting: Setting) -> None:
        """Refuses an overlap for which there are too few entries; before the dense phase begins."""
        budget = self._budget(model, names)
        if self.overlap is None:
            return
        parameters, others, shared = dict(model.named_parameters()), _indices_of(setting), round(self.overlap * budget)
        members = 0
        for name in names:
            if name in others:
                own = others[name]
                members += parameters[name].numel() if own is None else own.numel()
        free = sum(parameters[name].numel() for name in names) - members
        if shared > members or budget - shared > free:
            raise UsageError(
                f"method.overlap={self.overlap}: {shared} of {budget} entries would be shared with the module of "
                f"{self.overlap_with} and {budget - shared} not, but it has {members} of the entries that can be "
                f"selected, and {free} are not its own"
            )

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
        report = sparse_report(self._sparse, self._total)
        if self.overlap is not None:
            report["shared_entries"] = self._shared
        return report


def _indices_of(setting: Setting) -> dict[str, Tensor | None]:
    """Returns name -> flat indices of the entries of the other module; None: every entry."""
    assert isinstance(setting.other, SparseDelta)
    return {name: entries.indices for name, entries in setting.other.entries.items()}


def _count_shared(indices: Mapping[str, Tensor], others: Mapping[str, Tensor | None]) -> int:
    """Returns how many of the entries are entries of the other module."""
    count = 0
    for name, own in indices.items():
        if name in others:
            other = others[name]
            count += own.numel() if other is None else int(torch.isin(own.cpu(), other.long()).sum())
    return count
