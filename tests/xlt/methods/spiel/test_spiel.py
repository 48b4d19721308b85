"""SpIEL against the plain algorithms, update by update; and what must hold whatever the entries are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.xlt.methods.spiel.plain_spiel import PlainSpiel
from xlt.data.mix import Mix
from xlt.data.streams import stream
from xlt.engine.processes import Processes
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.methods.spiel import Spiel
from xlt.methods.spiel.optimisers import count_dtype
from xlt.models.transfer import block_linear_layers, recompute_activations

STEPS = 14
SETTINGS = ("method.update_interval=4", "method.estimation_steps=3", "method.replacement_rate=0.4")
RECIPE: dict[str, Any] = {
    "max_steps": STEPS,
    "evaluate_every_steps": 1000,
    "weight_decay": 0.1,
    "dtype": torch.float64,
    "examples": 13,
    "batch_size": 4,
}
Snapshot = dict[str, tuple[list[int], Tensor]]


def _watched(trainer: Any) -> list[Snapshot]:
    """Active entries and deltas after each step, noted while the trainer runs."""
    method, notes = trainer.method, []
    after_step = method.after_step

    def note(clipping: float) -> None:
        after_step(clipping)
        notes.append(
            {
                n: (method._sparse.indices[n].tolist(), d.detach().clone())
                for n, d in method.trainable().items()
                if n in method._sparse.indices
            }
        )

    method.after_step = note
    return notes


def _plain(trainer: Any, drawn: list[Snapshot], seed: int = 1, first_rows: int | None = None) -> list[Snapshot]:
    """The same run by the plain algorithms, from the same draw of entries, ties of SpIEL-MA decided as in `drawn`.

    `first_rows`: candidates are chosen by the first rows of a step alone.
    """
    method: Spiel = trainer.method
    trainer.method.attach(trainer.model, method.phases(trainer._budget())[0], trainer.setting)
    active = {name: set(indices.tolist()) for name, indices in method._sparse.indices.items()}
    method._sparse.detach()
    for parameter in trainer.model.parameters():
        parameter.requires_grad_(True)
    recipe, task = trainer.recipe, trainer.task
    plain = PlainSpiel(
        trainer.model,
        active,
        method.name == "spiel_ma",
        STEPS,
        method.update_interval,
        method.estimation_steps,
        method.replacement_rate,
        method.schedule,
        method.drop_by,
        recipe.learning_rate,
        recipe.weight_decay,
        clip=recipe.clip_norm or float("inf"),
        all_at_first=method.first_update == "all",
        moments=method.grown_moments,
        variant=method.sm3_variant,
    )
    mix = Mix(trainer.sources, recipe.batch_size, seed, "train")
    notes = []
    trainer.model.train()
    for step in range(STEPS):
        features = mix.batch(step).features
        if plain.momentum_growth:
            plain.preferred = {name: set(indices) for name, (indices, _) in drawn[step].items()}
        batch = task.collate(features, trainer.encoder, stream(seed, "collate", "train", step))
        if first_rows is not None:
            first = {name: rows[:first_rows] for name, rows in batch.items()}
            plain.first_part = lambda: task.loss(trainer.model, first)  # noqa: B023
        plain.step(lambda: task.loss(trainer.model, batch) / task.targets(batch), 1 - step / STEPS)  # noqa: B023
        chosen = {name: sorted(entries) for name, entries in plain.active.items()}
        notes.append({n: (i, plain.phi[n].view(-1)[i].clone()) for n, i in chosen.items()})
    return notes


def _same(found: list[Snapshot], expected: list[Snapshot]) -> None:
    assert len(found) == len(expected)
    for step, (ours, theirs) in enumerate(zip(found, expected, strict=True), start=1):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name][0] == theirs[name][0], f"step {step}: other entries of {name}"
            torch.testing.assert_close(
                ours[name][1], theirs[name][1], atol=1e-10, rtol=0, msg=lambda m, n=name, s=step: f"step {s}, {n}: {m}"
            )


@pytest.mark.parametrize("micro_batch_size", [None, 1])
@pytest.mark.parametrize("drop_by", ["value", "change"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("name", ["spiel_ag", "spiel_ma"])
def test_every_update_is_that_of_the_plain_algorithm(
    name: str, schedule: str, drop_by: str, micro_batch_size: int | None, make_method, make_trainer, tmp_path: Path
) -> None:
    """Algorithms 2 and 3 in float64: entries equal, values to 1e-10, with one and with four micro-batches a step."""
    options = (*SETTINGS, f"method.schedule={schedule}", f"method.drop_by={drop_by}")
    trainer = make_trainer(make_method(name, *options), "tagging", micro_batch_size=micro_batch_size, **RECIPE)
    notes = _watched(trainer)
    trainer.train(tmp_path, Silence())
    expected = _plain(make_trainer(make_method(name, *options), "tagging", **RECIPE), notes)
    _same(notes, expected)
    assert any(notes[6][n][0] != notes[7][n][0] for n in notes[6])  # an update that replaced some, not all


READINGS = [
    ("spiel_ag", "method.grown_moments=text"),
    ("spiel_ag", "method.grown_moments=code"),
    ("spiel_ag", "method.first_update=schedule"),
    ("spiel_ma", "method.first_update=schedule"),
    ("spiel_ma", "method.sm3_variant=I"),
]
"""Where our reading of the thesis is another than its own text or code, see docs/reference/fidelity.md."""


@pytest.mark.parametrize(("name", "reading"), READINGS)
def test_other_readings_of_the_thesis_are_those_of_the_plain_algorithm(
    name: str, reading: str, make_method, make_trainer, tmp_path: Path
) -> None:
    trainer = make_trainer(make_method(name, *SETTINGS, reading), "tagging", **RECIPE)
    notes = _watched(trainer)
    trainer.train(tmp_path / "run", Silence())
    _same(notes, _plain(make_trainer(make_method(name, *SETTINGS, reading), "tagging", **RECIPE), notes))
    usual = make_trainer(make_method(name, *SETTINGS), "tagging", **RECIPE)
    usual_notes = _watched(usual)
    usual.train(tmp_path / "usual", Silence())
    last, other = (run[-1][next(iter(run[-1]))] for run in (notes, usual_notes))
    assert last[0] != other[0] or not torch.equal(last[1], other[1])  # the reading matters


FIRST = (*SETTINGS, "method.candidates_from=micro_batch")


@pytest.mark.parametrize("reuses", [False, True])
def test_candidates_of_the_first_micro_batch_are_those_of_the_plain_algorithm(
    reuses: bool, make_method, make_trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the choice is by the first micro-batch; the means are over whole steps. Also where a layer may run twice."""
    monkeypatch.setattr("xlt.methods.spiel.method.reuses_layers", lambda _: reuses)
    trainer = make_trainer(make_method("spiel_ag", *FIRST), "tagging", micro_batch_size=2, **RECIPE)
    notes = _watched(trainer)
    trainer.train(tmp_path, Silence())
    plain = make_trainer(make_method("spiel_ag", *SETTINGS), "tagging", **RECIPE)
    _same(notes, _plain(plain, notes, first_rows=2))
    by_step = _plain(make_trainer(make_method("spiel_ag", *SETTINGS), "tagging", **RECIPE), notes)
    assert any(notes[-1][name][0] != by_step[-1][name][0] for name in notes[-1])  # the choice matters


@pytest.mark.parametrize(("options", "held"), [(SETTINGS, "all"), (FIRST, "one")])
def test_gradients_of_all_tensors_are_held_at_once_only_to_sum_micro_batches(
    options: tuple[str, ...], held: str, make_method, make_trainer, tmp_path: Path
) -> None:
    """PEERS: 4 bytes a weight, 25.9 GB of a model with 7B, only to choose candidates."""
    trainer = make_trainer(make_method("spiel_ag", *options), "tagging", micro_batch_size=1, **RECIPE)
    most, after_backward = [0], trainer.method.after_backward

    def measured() -> None:
        most[0] = max(most[0], sum(gradient.numel() for gradient in trainer.method._growth._whole.values()))
        after_backward()

    trainer.method.after_backward = measured
    trainer.train(tmp_path, Silence())
    tuned = sum(layer.weight.numel() for layer in block_linear_layers(trainer.model).values())
    assert most[0] == (tuned if held == "all" else 0)


def test_candidates_of_a_micro_batch_are_refused_where_each_process_has_its_own(make_method, make_trainer) -> None:
    trainer = make_trainer(make_method("spiel_ag", *FIRST), micro_batch_size=1, processes=Processes(0, 2), **RECIPE)
    with pytest.raises(UsageError, match=r"method.candidates_from=micro_batch: .*2 processes.*=step"):
        trainer.attach_first_phase()


@pytest.mark.parametrize("name", ["spiel_ag", "spiel_ma"])
@pytest.mark.parametrize("at", [1, 3, 6, 7, 8, 11])
def test_resumed_in_the_middle_it_goes_on_as_the_plain_algorithm(
    name: str, at: int, make_method, make_trainer, tmp_path: Path
) -> None:
    """Within an estimation phase, right before and after updates."""
    first = make_trainer(make_method(name, *SETTINGS), "tagging", save_every_seconds=0.0, **RECIPE)
    notes = _watched(first)

    class Stop(Exception):
        pass

    save = first._save_if_due

    def save_and_stop(position: Any, *arguments: Any) -> None:
        save(position, *arguments)
        if position.step == at:
            raise Stop

    first._save_if_due = save_and_stop
    with pytest.raises(Stop):
        first.train(tmp_path, Silence())
    second = make_trainer(make_method(name, *SETTINGS), "tagging", **RECIPE)
    rest = _watched(second)
    second.train(tmp_path, Silence())
    notes += rest
    _same(notes, _plain(make_trainer(make_method(name, *SETTINGS), "tagging", **RECIPE), notes))


def test_processes_sum_the_same_tensors_with_each_other_whatever_the_order_of_a_saved_state(
    make_method, make_trainer, records, killed, tmp_path: Path
) -> None:
    """A file gives its tensors in an order that differs between processes."""
    first = make_trainer(make_method("spiel_ag", *SETTINGS), "tagging", save_every_seconds=0.0, **RECIPE)
    with pytest.raises(killed):
        first.train(tmp_path, records(kill_at=3))
    state = first.method.state()
    assert any(name.startswith("growth/candidates/") for name in state)  # it is estimating
    orders = []
    for names in (list(state), list(reversed(state))):
        trainer = make_trainer(make_method("spiel_ag", *SETTINGS), "tagging", **RECIPE)
        trainer.method.load_state({name: state[name] for name in names})
        trainer.attach_first_phase()
        name_of = {id(tensor): name for name, tensor in trainer.method._attached.watched().items()}
        orders.append([name_of[id(tensor)] for tensor in trainer.method.partial_sums()])
    assert orders[0] == orders[1] == list(first.method._deltas)


@pytest.mark.parametrize("name", ["spiel_ag", "spiel_ma"])
def test_two_processes_take_the_plain_algorithms_entries(
    name: str, make_method, make_trainer, in_two_processes, tmp_path: Path
) -> None:
    def train(processes: Processes) -> list[Snapshot]:
        trainer = make_trainer(make_method(name, *SETTINGS), "tagging", processes=processes, **RECIPE)
        notes = _watched(trainer)
        trainer.train(tmp_path / f"of-{processes.count}", Silence())
        return notes

    found = in_two_processes(train, tmp_path)
    expected = _plain(make_trainer(make_method(name, *SETTINGS), "tagging", **RECIPE), found[0])
    for notes in found:
        _same(notes, expected)


@pytest.mark.parametrize("name", ["spiel_ag", "spiel_ma"])
def test_a_layer_that_no_batch_uses_is_left_as_it_was(name: str, make_method, make_trainer, tmp_path: Path) -> None:
    """As an expert that gets no token."""
    trainer = make_trainer(make_method(name, *SETTINGS), "tagging", **RECIPE)
    path, layer = next(iter(block_linear_layers(trainer.model).items()))
    layer.register_forward_hook(lambda layer, inputs, output: torch.zeros_like(output))
    notes = _watched(trainer)
    trainer.train(tmp_path, Silence())
    first, last = notes[0][path], notes[-1][path]
    assert not last[1].any()
    assert first[0] == last[0]


@pytest.mark.parametrize("name", ["spiel_ag", "spiel_ma"])
def test_clipping_reaches_the_estimates(name: str, make_method, make_trainer, tmp_path: Path) -> None:
    recipe = {**RECIPE, "clip_norm": 0.5}
    trainer = make_trainer(make_method(name, *SETTINGS), "tagging", **recipe)
    notes = _watched(trainer)
    trainer.train(tmp_path, Silence())
    _same(notes, _plain(make_trainer(make_method(name, *SETTINGS), "tagging", **recipe), notes))


@pytest.mark.parametrize("name", ["spiel_ag", "spiel_ma"])
def test_dropped_entries_hold_their_pre_trained_values(name: str, make_method, make_trainer, tmp_path: Path) -> None:
    trainer = make_trainer(make_method(name, *SETTINGS), "tagging", **{**RECIPE, "dtype": torch.bfloat16})
    before = {n: layer.weight.detach().clone() for n, layer in block_linear_layers(trainer.model).items()}
    trainer.train(tmp_path, Silence())
    for tensor, layer in block_linear_layers(trainer.model).items():
        weight = layer.weight
        untouched = torch.ones(weight.numel(), dtype=torch.bool)
        untouched[trainer.method._sparse.indices[tensor]] = False
        assert torch.equal(weight.detach().view(-1)[untouched], before[tensor].view(-1)[untouched])


def test_the_best_checkpoint_brings_its_entries_with_it(
    make_method, make_trainer, module_header, tmp_path: Path
) -> None:
    """Validated after every step; the best one lies before the last exchange."""
    trainer = make_trainer(make_method("spiel_ag", *SETTINGS), "tagging", **{**RECIPE, "evaluate_every_steps": 1})
    notes = _watched(trainer)
    values = iter([50.0] * 5 + [90.0] + [50.0] * 20)
    trainer._evaluate = lambda sources: {"accuracy": next(values)}
    trainer.train(tmp_path, Silence())
    module = trainer.method.export(trainer.model, module_header())
    for name, (indices, delta) in notes[5].items():
        assert module.entries[name].indices.tolist() == indices
        assert torch.equal(module.entries[name].values, delta)
        weight = dict(trainer.model.named_parameters())[name].detach().view(-1)
        others = torch.ones(weight.numel(), dtype=torch.bool)
        others[indices] = False
        base = (
            dict(make_trainer(make_method("full"), "tagging", **RECIPE).model.named_parameters())[name]
            .detach()
            .view(-1)
        )
        assert torch.equal(weight[others], base[others])


def test_ages_are_exact_and_say_when_entries_grew(make_method, make_trainer, module_header, tmp_path: Path) -> None:
    trainer = make_trainer(make_method("spiel_ag", *SETTINGS), "tagging", **RECIPE)
    trainer.train(tmp_path, Silence())
    module = trainer.method.export(trainer.model, module_header())
    counts = {int(step): count for step, count in module.header.provenance["entries_grown_at_step"].items()}
    assert set(counts) <= {4, 8, 12}  # none is as old as the first draw
    assert sum(counts.values()) == module.num_entries
    held = [trainer.method.state(), trainer.method._optimizer.state_dict()["state"][0]]
    ages = [tensor for state in held for name, tensor in state.items() if name.startswith(("grown_at/", "age"))]
    assert {age.dtype for age in ages} == {torch.int16}  # two bytes an entry


def test_counts_of_steps_have_the_bytes_that_they_need() -> None:
    assert [count_dtype(most) for most in (1, 32767, 32768)] == [torch.int16, torch.int16, torch.int32]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("method.density=0.1",), lambda w, total: round(0.1 * w.numel())),
        (("method.density=0.02", "method.density_of=model"), None),
        (("method.density=null", "method.rank=2"), None),
    ],
)
def test_density_says_what_it_counts(options: tuple[str, ...], expected: Any, make_method, make_trainer) -> None:
    trainer = make_trainer(make_method("spiel_ag", *options), "tagging")
    method = trainer.method
    method.attach(trainer.model, method.phases(trainer._budget())[0], trainer.setting)
    weights = {name: layer.weight for name, layer in block_linear_layers(trainer.model).items()}
    tuned = sum(weight.numel() for weight in weights.values())
    if "method.rank=2" in options:
        wanted = sum(2 * sum(weight.shape) for weight in weights.values())  # what LoRA of rank 2 has
    elif "method.density_of=model" in options:
        wanted = round(0.02 * trainer.model.pretrained_parameters)
    else:
        wanted = round(0.1 * tuned)
    assert abs(sum(method.entries.values()) - wanted) <= len(weights)
    for name, weight in weights.items():
        assert abs(method.entries[name] / weight.numel() - wanted / tuned) < 1 / weight.numel()


@pytest.mark.parametrize("name", ["spiel_ag", "spiel_ma"])
def test_computing_activations_again_changes_no_bit(name: str, make_method, make_trainer, tmp_path: Path) -> None:
    """Whole and watched gradients are formed once a backward pass, however often a block is computed."""
    found = []
    for again in (False, True):
        trainer = make_trainer(make_method(name, *SETTINGS), "tagging", **{**RECIPE, "dropout": 0.1})
        if again:
            recompute_activations(trainer.model)
        notes = _watched(trainer)
        trainer.train(tmp_path / str(again), Silence())
        found.append(notes)
    for kept, recomputed in zip(*found, strict=True):
        assert all(kept[n][0] == recomputed[n][0] and torch.equal(kept[n][1], recomputed[n][1]) for n in kept)
