"""State files: whole or set aside, with a line, and gone when the run is done."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from xlt.engine.state import Position, RunState, copy_into, load_optimizer
from xlt.modules import ModuleFileError
from xlt.modules.module_file import write_module_file


def _trainable(order: tuple[str, ...] = ("b.weight", "a.weight"), seed: int = 0) -> dict[str, nn.Parameter]:
    """`b` before `a`: not the order in which files keep their tensors."""
    sizes = {"b.weight": 3, "a.weight": 5}
    generator = torch.Generator().manual_seed(seed)
    values = {name: torch.randn(sizes[name], generator=generator) for name in sorted(sizes)}
    return {name: nn.Parameter(values[name].clone()) for name in order}


def _step(trainable: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    for name, parameter in trainable.items():
        parameter.grad = parameter.detach() * len(name) + 1
    optimizer.step()


def _saved(folder: Path) -> tuple[RunState, dict[str, nn.Parameter], torch.optim.Optimizer]:
    state, trainable = RunState(folder, "run"), _trainable()
    state.save_best("dense", trainable, {})
    optimizer = torch.optim.AdamW(trainable.values(), lr=0.1, fused=True)
    _step(trainable, optimizer)
    position = Position(phase=1, step=7, best_metric=61.5, best_step=4, records=9, seconds=12.25)
    state.save(position, trainable, optimizer, {"indices/x": torch.tensor([1, 5])})
    return state, trainable, optimizer


def test_a_new_run_has_no_state(tmp_path: Path) -> None:
    assert RunState(tmp_path / "absent").load() is None
    assert not (tmp_path / "absent").exists()


def test_everything_saved_comes_back(tmp_path: Path, bits) -> None:
    state, trainable, optimizer = _saved(tmp_path / "run")
    found = state.load()
    assert found is not None
    position, parts = found
    assert position == Position(phase=1, step=7, best_metric=61.5, best_step=4, records=9, seconds=12.25)
    assert bits(parts["trainable"]) == bits(trainable)
    assert parts["method"]["indices/x"].tolist() == [1, 5]
    slots = {f"{name}/{slot}" for name in trainable for slot in ("step", "exp_avg", "exp_avg_sq")}
    assert parts["optimizer"].keys() == slots
    assert bits(parts["optimizer"])["a.weight/exp_avg"] == bits(optimizer.state[trainable["a.weight"]])["exp_avg"]


@pytest.mark.parametrize("groups", [[("a.weight", "b.weight")], [("b.weight",), ("a.weight",)]])
def test_an_optimiser_goes_on_as_if_never_stopped_whatever_the_order_of_its_parameters(
    groups: list[tuple[str, ...]], tmp_path: Path, bits
) -> None:
    """A fused optimiser given another parameter's moments reads beyond them without a word."""
    state, trainable, optimizer = _saved(tmp_path)
    _step(trainable, optimizer)
    found = state.load()
    assert found is not None
    resumed = _trainable(("a.weight", "b.weight"), seed=5)
    copy_into(resumed, found[1]["trainable"])
    again = torch.optim.AdamW([{"params": [resumed[name] for name in group]} for group in groups], lr=0.1, fused=True)
    load_optimizer(again, resumed, found[1]["optimizer"])
    _step(resumed, again)
    assert bits(resumed) == bits(trainable)


def test_moments_of_another_shape_or_name_are_refused(tmp_path: Path) -> None:
    trainable = _trainable()
    optimizer = torch.optim.AdamW(trainable.values())
    for key, size in (("a.weight/exp_avg", 4), ("c.weight/exp_avg", 5)):
        with pytest.raises(ValueError, match=f"saved optimiser state {key} of shape"):
            load_optimizer(optimizer, trainable, {key: torch.zeros(size)})


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"b.weight": torch.zeros(3)}, "a.weight is absent in the state"),
        ({"a.weight": torch.zeros(1), "b.weight": torch.zeros(3)}, "a.weight is "),  # copy_ would spread it
        ({"a.weight": torch.zeros(5), "b.weight": torch.zeros(3), "c": torch.zeros(1)}, "and absent in the run"),
    ],
)
def test_values_that_do_not_fit_are_refused_before_any_is_copied(saved: dict, message: str, bits) -> None:
    trainable = _trainable()
    before = bits(trainable)
    with pytest.raises(ValueError, match=message):
        copy_into(trainable, saved)
    assert bits(trainable) == before


def test_a_write_that_fails_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, trainable, _ = _saved(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        state.save(Position(step=8), trainable, None, {})
    found = state.load()
    assert found is not None and found[0].step == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-dense.safetensors", "state.safetensors"]


def _damages(folder: Path) -> dict[str, Callable[[], object]]:
    """What -> a function that does this damage to the state in a folder."""
    state, best = folder / "state.safetensors", folder / "best-dense.safetensors"

    def flip(file: Path, at: float) -> None:
        data = bytearray(file.read_bytes())
        data[int(at * len(data))] ^= 1
        file.write_bytes(data)

    def of_another_run() -> None:
        RunState(folder, "other").save(Position(), {}, None, {})

    return {
        **{f"bit at {at}": functools.partial(flip, state, at) for at in (0.0, 0.3, 0.9)},
        "bit of the best checkpoint": lambda: flip(best, 0.9),
        "no best checkpoint": best.unlink,
        "empty": lambda: state.write_bytes(b""),
        "half": lambda: state.write_bytes(state.read_bytes()[: state.stat().st_size // 2]),
        "JSON": lambda: state.write_text("[]"),
        "no state": lambda: write_module_file(state, {"kind": "sparse_delta"}, {"x": torch.zeros(2)}),
        "another run's": of_another_run,
        "another run's best": lambda: RunState(folder, "other").save_best("dense", {}, {}),
    }


@pytest.mark.parametrize("what", _damages(Path()))
def test_a_damaged_state_is_set_aside_and_the_run_begins_anew(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, trainable, _ = _saved(tmp_path)
    _damages(tmp_path)[what]()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert state.load() is None
    assert {path.name.removesuffix(".damaged"): path.read_bytes() for path in tmp_path.iterdir()} == before
    assert all(path.name.endswith(".damaged") for path in tmp_path.iterdir())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(before) and all(f"{tmp_path}/" in line and ".damaged" in line for line in lines)
    assert state.load() is None and not capsys.readouterr().err
    state.save(Position(step=1), trainable, None, {})
    found = state.load()
    assert found is not None and found[0].step == 1


def test_a_best_checkpoint_that_is_damaged_while_its_phase_goes_on_is_not_loaded(tmp_path: Path) -> None:
    state, trainable, _ = _saved(tmp_path)
    (tmp_path / "best-dense.safetensors").write_bytes(b"")
    with pytest.raises(ModuleFileError, match=r"best-dense\.safetensors: is empty.*give the command again"):
        state.load_best("dense", trainable)
    assert state.load() is None


def test_the_best_checkpoint_of_a_phase_is_kept_apart(tmp_path: Path, bits) -> None:
    state, dense, sparse = RunState(tmp_path), _trainable(seed=1), _trainable(seed=2)
    of_method = {"indices/w": torch.arange(3)}
    state.save_best("dense", dense, {})
    state.save_best("sparse", sparse, of_method)
    for phase, kept, expected in (("dense", dense, {}), ("sparse", sparse, of_method)):
        found = _trainable(seed=3)
        assert bits(state.load_best(phase, found)) == bits(expected)
        assert bits(found) == bits(kept)


def test_discarding_removes_state_and_what_a_kill_left_and_nothing_else(tmp_path: Path) -> None:
    state, trainable, _ = _saved(tmp_path)
    state.save_best("dense", trainable, {})
    (tmp_path / ".state.safetensors.0a1b.tmp").write_bytes(b"half")
    (tmp_path / ".checkpoint.0a1b.tmp").mkdir()
    (tmp_path / ".checkpoint.0a1b.tmp" / "config.json").write_text("{")
    (tmp_path / "module.safetensors").write_bytes(b"kept")
    state.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["module.safetensors"]


def test_rows_of_zeros_in_an_optimisers_matrices_take_no_space_and_come_back(tmp_path: Path, bits) -> None:
    trainable = {"embeddings": nn.Parameter(torch.randn(1000, 64)), "dense": nn.Parameter(torch.randn(8, 64))}
    optimizer = torch.optim.AdamW(trainable.values(), lr=0.1, fused=True)
    trainable["embeddings"].grad = torch.zeros(1000, 64)
    trainable["embeddings"].grad[[3, 700]] = 1.0
    trainable["dense"].grad = torch.ones(8, 64)
    optimizer.step()
    optimizer.state[trainable["embeddings"]]["exp_avg"][5, 0] = -0.0
    state = RunState(tmp_path)
    state.save(Position(step=1), trainable, optimizer, {})
    weights = sum(parameter.numel() * 4 for parameter in trainable.values())
    assert (tmp_path / "state.safetensors").stat().st_size < 1.1 * weights
    found = state.load()
    assert found is not None
    for name, parameter in trainable.items():
        for slot, value in optimizer.state[parameter].items():
            loaded = found[1]["optimizer"][f"{name}/{slot}"]
            assert bits({"": loaded}) == bits({"": torch.as_tensor(value)}), (name, slot)
    assert not [name for part in found[1].values() for name in part if name.startswith("rows")]
