"""SpIEL, sparse fine-tuning that drops and grows entries during training (thesis chapter 7)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from xlt_kernels.select import select_at_random

from xlt.config import RunFacts, key
from xlt.errors import UsageError
from xlt.methods.method import (
    Method,
    ModuleReport,
    Phase,
    Setting,
    head_parameters,
    refuse_without_linear_layers,
    trained_head,
)
from xlt.methods.random_sft import pack_indices, sparse_report, unpack_indices
from xlt.methods.sparse import SparseDeltas
from xlt.methods.spiel.growth import GradientGrowth, Growth, MomentumGrowth
from xlt.methods.spiel.optimisers import EntryOptimiser, count_dtype
from xlt.methods.spiel.schedule import replacements
from xlt.models.sublayers import reuses_layers
from xlt.models.transfer import TransferModel, block_linear_layers, stored_shape
from xlt.modules import ModuleArtefact, ModuleHeader, SparseDelta


@dataclass
class SpielConfig:
    """Settings of SpIEL."""

    _target_: str = "xlt.methods.spiel.Spiel"
    growth: str = key("how entries to grow are ranked; gradient: SpIEL-AG; momentum: SpIEL-MA",
                      choices=("gradient", "momentum"))  # fmt: skip
    density: float | None = key("share of entries to tune; null: rank determines it", above=0, high=1,
                                hint="thesis: 0.0024 to 0.023", recipe=True)  # fmt: skip
    density_of: str = key("density is a share of the tuned tensors or of the whole model", choices=("tuned", "model"))
    rank: int | None = key("tune as many entries as LoRA of this rank has on these layers; null: density determines it",
                           low=1, recipe=True)  # fmt: skip
    update_interval: int = key("number of steps between updates of the entries (S)", low=1)
    replacement_rate: float = key("initial share of entries that an update replaces (xi)", low=0, high=1)
    schedule: str = key("how the replacement rate falls", choices=("linear", "cosine"))
    first_update: str = key("share of entries that the first update replaces: all, or that of the schedule",
                            choices=("all", "schedule"))  # fmt: skip
    drop_by: str = key("drop entries with the smallest deltas (value), or that changed least since the last update "
                       "(change)", choices=("value", "change"))  # fmt: skip
    estimation_steps: int = key("SpIEL-AG: steps over which gradients of candidates are averaged (gamma)", low=1)
    candidates: float = key("SpIEL-AG: number of candidates as a multiple of a tensor's tuned entries", low=1)
    candidates_from: str = key("SpIEL-AG: what candidates are chosen by; micro_batch: the first one of a step, which "
                               "saves memory", choices=("step", "micro_batch"), recipe=True)  # fmt: skip
    grown_moments: str = key("SpIEL-AG: how moments of grown entries begin; see docs/reference/fidelity.md",
                             choices=("corrected", "text", "code"))  # fmt: skip
    adam_betas: tuple[float, float] = key("SpIEL-AG: decay rates of Adam's moments")
    adam_epsilon: float = key("SpIEL-AG: epsilon of Adam", above=0, high=1)
    sm3_momentum: float = key("SpIEL-MA: momentum of SM3; 0: none", low=0, high=1)
    sm3_epsilon: float = key("SpIEL-MA: epsilon of SM3, added under the square root", above=0,
                             high=1)  # fmt: skip
    sm3_variant: str = key("SpIEL-MA: what SM3 accumulates; I: sums of largest squares; II: largest estimates",
                           choices=("I", "II"))  # fmt: skip

    def unused(self, facts: RunFacts) -> Iterator[str]:
        """The share of what, where a rank says how many entries; the keys of the other kind of growth."""
        if self.density is None:
            yield "density_of"
        if self.growth == "gradient":
            yield from ("sm3_momentum", "sm3_epsilon", "sm3_variant")
        else:
            yield from ("estimation_steps", "candidates", "candidates_from", "grown_moments")
            yield from ("adam_betas", "adam_epsilon")

    def faults(self, prefix: str) -> Iterator[str]:
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            yield f"{prefix}.adam_betas={list(self.adam_betas)}: each must be at least 0 and less than 1"
        if (self.density is None) == (self.rank is None):
            yield (
                f"{prefix}.density={self.density} and {prefix}.rank={self.rank}: give exactly one of the two; "
                "the other must be null"
            )
        if self.growth == "gradient" and self.estimation_steps > self.update_interval:
            yield (
                f"{prefix}.estimation_steps={self.estimation_steps}: must not be larger than "
                f"{prefix}.update_interval={self.update_interval}"
            )


SCHEMA = SpielConfig

_NAMES = {"gradient": "spiel_ag", "momentum": "spiel_ma"}
"""The method's name by how entries are grown."""


class Spiel(Method):
    """A method that trains a fixed number of entries of every linear layer in the blocks, and regularly replaces some.

    The first entries are drawn at random, the same share of each tensor. After every S steps the k(i, t) entries of
    tensor i with the smallest deltas are dropped: they get their pre-trained values back. As many frozen entries are
    grown: SpIEL-AG grows those with the largest mean gradient (`GradientGrowth`, with Adam), SpIEL-MA those with the
    largest estimated momentum (`MomentumGrowth`, with SM3). An update does not grow an entry that it drops. After the
    last step nothing is replaced.

    The texts disagree on some points. Entries are dropped by |phi| as §7.3.1 says, or by |phi - phi0| as Algorithms 2
    and 3 do (`drop_by`). Updates are at multiples of S (§7.3.1), and the first one replaces every entry (Eq. 7.6, where
    gamma is the period) unless Eq. E.1 is taken by its letter (`first_update`); the reference code updates at gamma,
    S + gamma, .... `AgedAdam.seeds` says how grown entries begin (`grown_moments`), `sm3_step` what is accumulated
    (`sm3_variant`).

    The weights of the GPT-2 family are (in, out), those of other families (out, in); rows and columns are the weight's
    own.

    Deltas, moments and accumulators are float32 (float64 for a float64 model), even if the base is bfloat16 or 4-bit.
    The L2 term is decoupled decay of the deltas, `train.weight_decay`.
    """

    averages = False
    spreads = True
    wants_whole_steps = True

    @classmethod
    def name_of(cls, config: Any) -> str:
        return _NAMES[config.growth]

    def __init__(
        self,
        growth: str,
        density: float | None,
        density_of: str,
        rank: int | None,
        update_interval: int,
        replacement_rate: float,
        schedule: str,
        first_update: str,
        drop_by: str,
        estimation_steps: int,
        candidates: float,
        candidates_from: str,
        grown_moments: str,
        adam_betas: tuple[float, float],
        adam_epsilon: float,
        sm3_momentum: float,
        sm3_epsilon: float,
        sm3_variant: str,
    ) -> None:
        self.name, self.growth = _NAMES[growth], growth
        self.density, self.density_of, self.rank = density, density_of, rank
        self.update_interval, self.replacement_rate, self.schedule = update_interval, replacement_rate, schedule
        self.first_update, self.drop_by = first_update, drop_by
        self.estimation_steps, self.candidates, self.candidates_from = estimation_steps, candidates, candidates_from
        self.grown_moments = grown_moments
        self.adam_betas, self.adam_epsilon = (adam_betas[0], adam_betas[1]), adam_epsilon
        self.sm3_momentum, self.sm3_epsilon, self.sm3_variant = sm3_momentum, sm3_epsilon, sm3_variant
        self._loaded_state: dict[str, Tensor] = {}
        self._sparse: SparseDeltas | None = None

    def steps_fault(self, steps: int) -> str | None:
        if self.update_interval < steps:
            return None
        shorter = f"method.update_interval={steps - 1} or less" if steps > 1 else "more steps"
        return (
            f"method.update_interval={self.update_interval}: in {steps} steps no entry would be replaced, and those "
            f"that are drawn at random at the start would be trained to the end; give {shorter}, or take random_sft"
        )

    def division_fault(self, processes: int, *, micro_batches: bool) -> str | None:
        if self.growth == "momentum" or self.candidates_from == "step" or not micro_batches or processes == 1:
            return None
        return (
            f"method.candidates_from=micro_batch: with {processes} processes, each has a first micro-batch of its own; "
            "set method.candidates_from=step (which needs 4 bytes more for each tuned weight), or one process"
        )

    def check_model(self, model: TransferModel, *, adapts_language: bool) -> None:
        refuse_without_linear_layers(self.name, model)
        self._entries_of(model)

    def _entries_of(self, model: TransferModel) -> dict[str, int]:
        """Returns name -> number of tuned entries, for each tensor.

        Raises:
            UsageError: of a tensor it would be none, or more than all.
        """
        shapes = self._shapes_of(model)
        density = self._density_of_tensors(shapes.values(), model.pretrained_parameters)
        given = f"method.rank={self.rank}" if self.rank is not None else f"method.density={self.density}"
        for name, shape in shapes.items():
            if not 1 <= round(density * shape.numel()) <= shape.numel():
                what = "no entry" if density < 1 else "more than all entries"
                raise UsageError(
                    f"{given}: this is {what} of the {shape.numel()} in {name} of model {model.base_name}; give a "
                    f"{'larger' if density < 1 else 'smaller'} value"
                )
        return {name: round(density * shape.numel()) for name, shape in shapes.items()}

    @staticmethod
    def _shapes_of(model: TransferModel) -> dict[str, torch.Size]:
        """Returns name -> shape of each tensor, as its layer stores it."""
        return {name: stored_shape(layer) for name, layer in block_linear_layers(model).items()}

    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        self.check_model(model, adapts_language=setting.adapts_language)
        shapes = self._shapes_of(model)
        self._setting, self._steps = setting, phase.steps
        self._total, self._head = model.pretrained_parameters, head_parameters(model)
        self.entries = self._entries_of(model)
        indices = unpack_indices(self._loaded_state) or {
            name: select_at_random({name: shape}, self.entries[name], setting.random("start", name))[name]
            for name, shape in shapes.items()
        }
        parts = self._parts(model, setting) if self.growth == "gradient" else ""
        self._sparse = SparseDeltas(model, indices)
        self._growth = self._new_growth(self._sparse, parts)
        self._step = 0
        steps = count_dtype(phase.steps)
        self._grown_at = {name: torch.zeros_like(i, dtype=steps) for name, i in self._sparse.indices.items()}
        self._last: dict[str, Tensor] = {}
        if self.drop_by == "change":
            self._last = {name: torch.zeros_like(delta) for name, delta in self._sparse.deltas.items()}
        self._restore_state(self._loaded_state)
        self._prepare()

    def trainable(self) -> dict[str, nn.Parameter]:
        return {**self._deltas, **self._head}

    def optimizer(self, trainable: Mapping[str, nn.Parameter], rate: float, decay: float) -> EntryOptimiser:
        self._optimizer = self._growth.optimiser(self._head, rate, decay)
        return self._optimizer

    def after_backward(self) -> None:
        self._growth.after_backward()

    def partial_sums(self) -> Iterable[Tensor]:
        return self._growth.partial_sums()

    def before_step(self) -> None:
        self._growth.before_step()

    def after_step(self, clipping: float) -> None:
        self._growth.after_step(clipping)
        self._step += 1
        self._update()
        self._prepare()

    def write(self, base: Mapping[str, Tensor] | None = None) -> None:
        self._attached.write()

    def written_entries(self) -> None:
        return None  # the entries change within a phase

    def state(self) -> dict[str, Tensor]:
        state = {"step": torch.tensor(self._step), **pack_indices(self._attached.indices)}
        for part, named in (("grown_at", self._grown_at), ("last", self._last)):
            state.update((f"{part}/{name}", tensor) for name, tensor in named.items())
        return state | {f"growth/{name}": tensor for name, tensor in self._growth.state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._loaded_state = dict(state)
        if self._sparse is not None:  # called after `attach`: the phase's best checkpoint is restored
            indices = unpack_indices(state)
            assert indices is not None
            self._sparse.stop_watching()
            self._sparse.move_to(indices)
            self._restore_state(state)

    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        ages = {str(step): count for step, count in sorted(self._counts_by_step().items())}
        header = dataclasses.replace(header, provenance={**header.provenance, "entries_grown_at_step": ages})
        return SparseDelta(header, self._attached.entries(), trained_head(model))

    def report(self) -> ModuleReport:
        return sparse_report(self._attached, self._total)

    @property
    def _attached(self) -> SparseDeltas:
        assert self._sparse is not None
        return self._sparse

    @property
    def _deltas(self) -> dict[str, nn.Parameter]:
        return self._attached.deltas

    def _density_of_tensors(self, shapes: Iterable[torch.Size], total: int) -> float:
        """Returns the share of each tensor's entries that is tuned."""
        shapes = list(shapes)
        tuned = sum(shape.numel() for shape in shapes)
        if self.rank is not None:
            return sum(self.rank * sum(shape) for shape in shapes) / tuned
        assert self.density is not None
        return self.density * (total / tuned if self.density_of == "model" else 1)

    def _parts(self, model: TransferModel, setting: Setting) -> str:
        """Returns how the gradients of a step come, as `GradientGrowth` wants it said.

        Raises:
            UsageError: candidates cannot be chosen as the config says.
        """
        if (fault := self.division_fault(setting.processes, micro_batches=setting.micro_batches)) is not None:
            raise UsageError(fault)
        if self.candidates_from == "step" or not setting.micro_batches:
            return "sum" if setting.in_parts or reuses_layers(model) else "one"
        return "first sum" if reuses_layers(model) else "first"

    def _new_growth(self, sparse: SparseDeltas, parts: str) -> Growth:
        if self.name == "spiel_ma":
            return MomentumGrowth(sparse, self.sm3_momentum, self.sm3_epsilon, self.sm3_variant)
        return GradientGrowth(
            sparse,
            self.estimation_steps,
            self.candidates,
            parts,
            self.grown_moments,
            self.adam_betas,
            self.adam_epsilon,
            self._steps,
        )

    def _restore_state(self, state: Mapping[str, Tensor]) -> None:
        if not state:
            return
        self._step = int(state["step"])
        for part, named in (("grown_at", self._grown_at), ("last", self._last)):
            for name in named:
                named[name] = state[f"{part}/{name}"].to(named[name].device)
        self._growth.load_state(
            {name.removeprefix("growth/"): t for name, t in state.items() if name.startswith("growth/")}
        )

    def _replacements(self, step: int, entries: int) -> int:
        return replacements(
            step,
            self._steps,
            self.update_interval,
            self.replacement_rate,
            self.schedule,
            entries,
            self.first_update,
        )

    def _prepare(self) -> None:
        """Tells the growth criterion how many steps there are until the next update."""
        until_update = -(self._step + 1) % self.update_interval
        update = self._step + 1 + until_update
        replaces_any = any(self._replacements(update, entries) for entries in self.entries.values())
        self._growth.prepare(until_update if replaces_any else None, self._draw)

    def _draw(self, name: str) -> torch.Generator:
        return self._setting.random("update", self._step, name)

    @torch.no_grad()
    def _update(self) -> None:
        """Drops and grows entries, if the schedule replaces any after this step."""
        for name, delta in self._deltas.items():
            count = self._replacements(self._step, len(delta))
            if count == 0:
                continue
            grown, seeds = self._growth.grow(name, count, self._draw)
            change = delta - self._last[name] if self._last else delta
            kept = torch.ones(len(delta), dtype=torch.bool, device=delta.device)
            kept[change.abs().argsort(stable=True)[: len(grown)]] = False
            order = self._attached.exchange(name, kept, grown)
            self._optimizer.exchange(delta, kept, order, seeds)
            ages = self._grown_at[name]
            self._grown_at[name] = torch.cat([ages[kept], ages.new_full((len(grown),), self._step)])[order]
            if self._last:
                self._last[name] = delta.detach().clone()

    def _counts_by_step(self) -> dict[int, int]:
        steps, counts = torch.cat([ages.cpu() for ages in self._grown_at.values()]).unique(return_counts=True)
        return dict(zip(steps.tolist(), counts.tolist(), strict=True))
