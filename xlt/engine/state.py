"""The saved state of a run, with which a killed run can continue and end in the same weights.

The file has the format of module files (safetensors, JSON header, checksum, written atomically); nothing is pickled.
Random streams are functions of seed, phase and step (`xlt.data.streams`), so phase and step are all their state.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xlt.files import set_aside
from xlt.modules.module_file import ModuleFileError, read_module_file, write_module_file

_BEST_FILES = "best-*.safetensors"
_KEPT_FILES = "kept-*.safetensors"
STATE_FILES = ("state.safetensors", _BEST_FILES, _KEPT_FILES, ".*.tmp")
"""Patterns of the files that a run needs only until it is finished."""

_STATE, _BEST, _KEPT = "run_state", "best_checkpoint", "kept_checkpoint"
_ROWS = "rows"
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass
class Position:
    """The position of training within a run.

    Attributes:
        phase: index of the phase.
        step: number of steps done in the phase.
        best_metric: metric of the phase's best checkpoint so far; None before the first evaluation.
        best_step: step of this checkpoint.
        averaged: whether the trainable tensors are the mean with which the run ends.
        records: number of metric records written.
        seconds: time spent so far, including that before interruptions.
    """

    phase: int = 0
    step: int = 0
    best_metric: float | None = None
    best_step: int = 0
    averaged: bool = False
    records: int = 0
    seconds: float = 0.0


class RunState:
    """The state files of one run.

    Args:
        folder: of the run; created at the first save.
        run: its fingerprint, which the files carry.
    """

    def __init__(self, folder: Path, run: str = "") -> None:
        self._folder, self._run = folder, run
        self._file = folder / "state.safetensors"

    def save(
        self,
        position: Position,
        trainable: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer | None,
        method: Mapping[str, Tensor],
        average: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Writes the state; if this is interrupted, the file still holds the last complete state.

        Of an optimiser's matrices that are mostly zero only the other rows are written: an embedding matrix has a row
        for every token, and the moments of tokens that the run never met are zero.
        """
        tensors = {f"trainable/{name}": parameter.detach() for name, parameter in trainable.items()}
        tensors.update((f"method/{name}", tensor) for name, tensor in method.items())
        tensors.update((f"average/{name}", tensor) for name, tensor in (average or {}).items())
        if optimizer is not None:
            for name, parameter in trainable.items():
                slots = optimizer.state.get(parameter, {})
                tensors.update((f"optimizer/{name}/{slot}", torch.as_tensor(value)) for slot, value in slots.items())
        lengths = {}
        for name in [name for name in tensors if name.startswith("optimizer/")]:
            if (rows := _rows_to_keep(tensors[name])) is not None:
                lengths[name] = len(tensors[name])
                tensors[f"{_ROWS}/{name}"], tensors[name] = rows, tensors[name][rows]
        self._folder.mkdir(parents=True, exist_ok=True)
        header = {"kind": _STATE, "fingerprint": self._run, "position": asdict(position), "lengths": lengths}
        write_module_file(self._file, header, tensors)

    def load(self) -> tuple[Position, dict[str, dict[str, Tensor]]] | None:
        """Reads position and tensors by part (`trainable`, `method`, `average`, `optimizer`); None for a new run.

        If a state file is damaged or belongs to another run, all of them are set aside, with a line for each, and the
        run is a new one.
        """
        if not self._file.exists():
            return None
        try:
            header, tensors = self._read(self._file, _STATE)
            position = Position(**header["position"])
            best = sorted(self._folder.glob(_BEST_FILES))
            for file in best:
                self._read(file, _BEST)
            if position.best_metric is not None and not best:
                raise ModuleFileError(self._file, "the best checkpoint that belongs to it is missing")
        except ModuleFileError as error:
            self._set_aside(error)
            return None
        for name, length in header.get("lengths", {}).items():
            rows, kept = tensors.pop(f"{_ROWS}/{name}"), tensors[name]
            tensors[name] = kept.new_zeros(length, *kept.shape[1:]).index_copy_(0, rows, kept)
        return position, _parts(tensors)

    def save_best(self, phase: str, trainable: Mapping[str, nn.Parameter], method: Mapping[str, Tensor]) -> None:
        """Saves the present trainable values and the method's state as the phase's best checkpoint."""
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"trainable/{name}": parameter.detach() for name, parameter in trainable.items()}
        tensors.update((f"method/{name}", tensor) for name, tensor in method.items())
        write_module_file(self._best(phase), {"kind": _BEST, "fingerprint": self._run}, tensors)

    def load_best(self, phase: str, trainable: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Copies the phase's best checkpoint into the trainable tensors; returns the method's state in it.

        Raises:
            ModuleFileError: the file is damaged or belongs to another run; all state was set aside.
        """
        try:
            parts = _parts(self._read(self._best(phase), _BEST)[1])
        except ModuleFileError as error:
            self._set_aside(error)
            raise ModuleFileError(self._best(phase), f"{error.fault}; give the command again to train anew") from error
        copy_into(trainable, parts["trainable"])
        return parts["method"]

    def keep(self, phase: str, step: int, trainable: Mapping[str, nn.Parameter]) -> None:
        """Saves the present trainable values of a step, until the run is finished."""
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: parameter.detach() for name, parameter in trainable.items()}
        write_module_file(self._kept(phase, step), {"kind": _KEPT, "fingerprint": self._run}, tensors)

    def kept(self, phase: str, step: int) -> dict[str, Tensor]:
        """Returns the trainable values of a step that `keep` saved.

        Raises:
            ModuleFileError: the file is missing, damaged or belongs to another run; all state was set aside.
        """
        file = self._kept(phase, step)
        try:
            return self._read(file, _KEPT)[1]
        except ModuleFileError as error:
            self._set_aside(error)
            raise ModuleFileError(file, f"{error.fault}; give the command again to train anew") from error

    def discard_best(self, phase: str) -> None:
        """Removes the phase's best checkpoint."""
        self._best(phase).unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes all state of a finished run, and temporary files of interrupted writes."""
        for pattern in STATE_FILES:
            for path in self._folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _read(self, file: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        header, tensors = read_module_file(file)
        if header.get("kind") != kind:
            raise ModuleFileError(file, "it is no saved state of a run")
        if header.get("fingerprint") != self._run:
            raise ModuleFileError(file, f"it is the state of run {header.get('fingerprint')}, not of {self._run}")
        return header, tensors

    def _set_aside(self, error: ModuleFileError) -> None:
        files = [self._file, *(file for kind in (_BEST_FILES, _KEPT_FILES) for file in sorted(self._folder.glob(kind)))]
        for file in files:
            fault = error.fault if str(error).startswith(f"{file}: ") else "it belongs to state that cannot be used"
            if file.exists():
                set_aside(file, fault, "the run is trained from the start")

    def _kept(self, phase: str, step: int) -> Path:
        return self._folder / f"kept-{phase}-{step}.safetensors"

    def _best(self, phase: str) -> Path:
        return self._folder / f"best-{phase}.safetensors"


def _rows_to_keep(tensor: Tensor) -> Tensor | None:
    """Numbers of the rows of a matrix that have a bit set; None where leaving the others out would not halve it.

    By their bits, so that a negative zero counts as a value and comes back as it was.
    """
    if tensor.dim() != 2 or tensor.element_size() not in _INTEGERS or tensor.is_complex():
        return None
    rows = tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()]).ne(0).any(1).nonzero()[:, 0]
    return rows if 2 * len(rows) <= len(tensor) else None


def _parts(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {"trainable": {}, "method": {}, "average": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    return parts


@torch.no_grad()
def copy_into(trainable: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Copies saved values into trainable tensors of the same names.

    Raises:
        ValueError: names or shapes differ, because the state belongs to another run or an older version of the method.
    """
    _check_fit(trainable, {name: value.shape for name, value in values.items()})
    for name, parameter in trainable.items():
        parameter.copy_(values[name])


def load_optimizer(
    optimizer: torch.optim.Optimizer, trainable: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Restores the saved slots (moments, step counts) of an optimiser, in their saved dtypes.

    Slots are assigned by name, not by position, because a resumed run can have its parameters in another order. An
    optimiser whose slots have other shapes than their parameters has `keeps_other_shapes = True`.

    Raises:
        ValueError: a slot belongs to no trainable tensor or has another shape, which a fused optimiser would not
            notice.
    """
    order = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    numbers = {name: order.index(id(parameter)) for name, parameter in trainable.items()}
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        name, _, slot = key.rpartition("/")
        fits = name in numbers and (
            not tensor.dim() or getattr(optimizer, "keeps_other_shapes", False) or tensor.shape == trainable[name].shape
        )
        if not fits:
            raise ValueError(
                f"saved optimiser state {key} of shape {tuple(tensor.shape)} fits no trainable tensor; remove the "
                "state to start the run again"
            )
        state.setdefault(numbers[name], {})[slot] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _check_fit(trainable: Mapping[str, nn.Parameter], saved: Mapping[str, torch.Size]) -> None:
    expected = {name: parameter.shape for name, parameter in trainable.items()}
    differing = sorted(name for name in expected.keys() | saved.keys() if expected.get(name) != saved.get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"the saved state does not fit the run: {name} is {saved.get(name, 'absent')} in the state and "
            f"{expected.get(name, 'absent')} in the run ({len(differing)} tensors differ); remove the state to "
            "start the run again"
        )
