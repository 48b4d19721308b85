"""SpIEL-AG and SpIEL-MA once more, as Algorithms 2 and 3 read: dense matrices, masks, sorted lists, float64.

Nothing of xlt's own methods or kernels is used: the whole gradient of every weight is formed by autograd, deltas are
matrices that are zero where they are not active, Adam and SM3 are written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class PlainSpiel:
    """State of one run; `step` is called with a function that gives the loss of a step.

    Products r_i c_j tie by nature: two entries alone in their rows and columns make two equal cells. Which of them grow
    is drawn, so `preferred` says what the other implementation drew; it decides among equals and nothing else.
    """

    model: Any
    active: dict[str, set[int]]
    momentum_growth: bool
    steps: int
    interval: int
    gamma: int
    xi: float
    schedule: str
    drop_by: str
    rate: float
    decay: float
    sm3_epsilon: float = 1e-8
    adam_epsilon: float = 1e-8
    clip: float = math.inf
    first_part: Callable[[], Tensor] | None = None  # the loss of a step's first micro-batch, if it alone chooses
    preferred: dict[str, set[int]] = field(default_factory=dict)
    all_at_first: bool = True
    moments: str = "corrected"
    variant: str = "II"
    t: int = 0
    phi: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weights = dict(self.model.named_parameters())
        self.theta = {name: weights[name].detach().clone() for name in self.active}
        self.weights = {name: weights[name] for name in self.active}
        self.head = {name: weight for name, weight in weights.items() if name.startswith("head.")}
        for name, weight in weights.items():
            weight.requires_grad_(name in self.active or name in self.head)
        for name, theta in self.theta.items():
            self.phi[name] = torch.zeros_like(theta)
        self.phi0 = {name: torch.zeros_like(theta) for name, theta in self.theta.items()}
        tuned = {**self.theta, **{name: head.detach() for name, head in self.head.items()}}
        self.first, self.second = ({name: torch.zeros_like(x) for name, x in tuned.items()} for _ in range(2))
        self.age = {name: torch.zeros_like(x) for name, x in tuned.items()}
        as_matrix = {name: x.reshape(x.shape[0], -1) for name, x in tuned.items()}
        self.rows = {name: torch.zeros(x.shape[0], dtype=x.dtype) for name, x in as_matrix.items()}
        self.columns = {name: torch.zeros(x.shape[1], dtype=x.dtype) for name, x in as_matrix.items()}
        self.candidates: dict[str, list[int]] = {}
        self.samples: list[dict[str, Tensor]] = []

    def step(self, loss: Callable[[], Tensor], share: float) -> None:
        """`share`: of the learning rate in this step."""
        self.t += 1
        for name, weight in self.weights.items():
            weight.data = self.theta[name] + self.phi[name]
        self.model.zero_grad(set_to_none=True)
        loss().backward()
        whole = {name: weight.grad.clone() for name, weight in self.weights.items()}
        choosing = whole
        if self.first_part is not None:
            first = torch.autograd.grad(self.first_part(), [*self.weights.values()])
            choosing = dict(zip(self.weights, first, strict=True))
        gradients = {name: self._masked(name, gradient) for name, gradient in whole.items()}
        gradients.update((name, head.grad.clone()) for name, head in self.head.items())
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
        factor = min(1.0, self.clip / (norm + 1e-6))
        self._estimate({name: gradient * factor for name, gradient in whole.items()}, choosing)
        for name, gradient in gradients.items():
            is_delta = name in self.phi
            tensor = self.phi[name] if is_delta else self.head[name].data
            change = self._change(name, gradient * factor)
            if is_delta:
                tensor.mul_(1 - share * self.rate * self.decay)
                change = self._masked(name, change)
            tensor.sub_(share * self.rate * change)
        self._exchange()
        for name, weight in self.weights.items():
            weight.data = self.theta[name] + self.phi[name]

    def _masked(self, name: str, x: Tensor) -> Tensor:
        mask = torch.zeros(x.numel(), dtype=x.dtype)
        mask[sorted(self.active[name])] = 1
        return x * mask.view_as(x)

    def _change(self, name: str, g: Tensor) -> Tensor:
        if self.momentum_growth:
            matrix = g.reshape(g.shape[0], -1)
            if self.variant == "I":
                self.rows[name] = self.rows[name] + (matrix**2).max(1).values
                self.columns[name] = self.columns[name] + (matrix**2).max(0).values
                seen = torch.minimum(self.rows[name][:, None], self.columns[name][None, :])
                return (matrix / (seen + self.sm3_epsilon).sqrt()).view_as(g)
            seen = torch.minimum(self.rows[name][:, None], self.columns[name][None, :]) + matrix**2
            counted = self._masked(name, seen) if name in self.phi else seen
            self.rows[name] = torch.maximum(self.rows[name], counted.max(1).values)
            self.columns[name] = torch.maximum(self.columns[name], counted.max(0).values)
            return (matrix / (seen + self.sm3_epsilon).sqrt()).view_as(g)
        self.age[name] += 1
        self.first[name] = 0.9 * self.first[name] + 0.1 * g
        self.second[name] = 0.999 * self.second[name] + 0.001 * g**2
        first = self.first[name] / (1 - 0.9 ** self.age[name])
        second = self.second[name] / (1 - 0.999 ** self.age[name])
        return first / (second.sqrt() + self.adam_epsilon)

    def _next_update(self) -> int:
        return -(-self.t // self.interval) * self.interval

    def _estimate(self, whole: dict[str, Tensor], choosing: dict[str, Tensor]) -> None:
        if self.momentum_growth:
            return
        until = self._next_update() - self.t
        if until == self.gamma - 1:
            self.samples = []
            for name, gradient in choosing.items():
                flat = gradient.view(-1).abs().tolist()
                frozen = sorted((-flat[n], n) for n in range(len(flat)) if n not in self.active[name])
                self.candidates[name] = [n for _, n in frozen[: len(self.active[name])]]
        if until < self.gamma:
            self.samples.append({name: gradient.clone() for name, gradient in whole.items()})

    def _count(self, entries: int) -> int:
        if self.t % self.interval or self.t >= self.steps:
            return 0
        if self.t == self.interval and self.all_at_first:
            return entries
        if self.schedule == "linear":
            return round(self.xi * (self.steps - self.t) / self.steps * entries)
        return round(self.xi / 2 * (1 + math.cos(self.t * math.pi / self.steps)) * entries)

    def _exchange(self) -> None:
        for name in self.phi:
            count = self._count(len(self.active[name]))
            if count == 0:
                continue
            grown = self._grown(name, count)
            measure = self.phi[name] - (self.phi0[name] if self.drop_by == "change" else 0)
            flat = measure.view(-1).abs().tolist()
            dropped = sorted(self.active[name], key=lambda n: (flat[n], n))[: len(grown)]
            phi, first, second, age = (x[name].view(-1) for x in (self.phi, self.first, self.second, self.age))
            phi[dropped] = 0
            self.active[name] = (self.active[name] - set(dropped)) | set(grown)
            if not self.momentum_growth:
                values = torch.stack([sample[name].view(-1) for sample in self.samples])[:, grown]
                age[grown] = 0 if self.moments == "text" else self.gamma
                scaled = self.moments == "corrected"
                first[grown] = values.mean(0) * (1 - 0.9**self.gamma if scaled else 1)
                second[grown] = (values**2).mean(0) * (1 - 0.999**self.gamma if scaled else 1)
            self.phi0[name] = self.phi[name].clone()

    def _grown(self, name: str, count: int) -> list[int]:
        if self.momentum_growth:
            products = torch.outer(self.rows[name], self.columns[name]).view(-1).tolist()
            score = [float(f"{product:.10e}") for product in products]  # equal ones are summed in another order there
            frozen = [n for n in range(len(score)) if n not in self.active[name]]
        else:
            score = torch.stack([s[name].view(-1) for s in self.samples]).mean(0).abs().tolist()
            frozen = self.candidates[name]
        preferred = self.preferred.get(name, set())
        return sorted(frozen, key=lambda n: (-score[n], n not in preferred, n))[:count]
