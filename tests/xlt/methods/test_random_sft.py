"""Random SFT: K entries of all tunable ones, the same draw for the same seed, trained as LT-SFT's sparse phase is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt.data.mix import Mix
from xlt.data.streams import stream
from xlt.engine.watching import Silence
from xlt.methods.method import Budget
from xlt.models.transfer import layer_norm_parameters

NEVER = 10_000


def _attached(make_trainer: Any, method: Any, kind: str = "tagging", **about: Any) -> Any:
    trainer = make_trainer(method, kind, **about)
    trainer.method.attach(trainer.model, trainer.method.phases(Budget(1, 1, None, 1, 1.0))[0], trainer.setting)
    return trainer


def _indices(trainer: Any) -> dict[str, Tensor]:
    return {name.removeprefix("indices/"): chosen for name, chosen in trainer.method.state().items()}


def test_exactly_k_entries_are_drawn_over_all_tensors_in_proportion_to_their_size(make_trainer, make_method) -> None:
    trainer = _attached(make_trainer, make_method("random_sft", "method.density=0.2"))
    chosen = _indices(trainer)
    total = trainer.model.pretrained_parameters
    assert sum(len(indices) for indices in chosen.values()) == round(0.2 * total)
    tunable = {n: p.numel() for n, p in trainer.model.named_parameters() if n.startswith("backbone.")}
    share = round(0.2 * total) / sum(tunable.values())
    large = {name: size for name, size in tunable.items() if size >= 1000}
    for name, size in large.items():  # five standard deviations of a binomial
        assert abs(len(chosen[name]) - share * size) < 5 * (size * share * (1 - share)) ** 0.5, name
    weight = chosen["backbone.embeddings.word_embeddings.weight"].double()
    assert abs(weight.mean() / 300 / 32 - 0.5) < 0.05


def test_the_draw_is_a_function_of_the_seed(make_trainer, make_method, bits) -> None:
    draws = [bits(_indices(_attached(make_trainer, make_method("random_sft"), seed=seed))) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_a_density_beyond_the_tunable_entries_takes_them_all(make_trainer, make_method) -> None:
    trainer = _attached(make_trainer, make_method("random_sft", "method.density=1", "method.freeze_layer_norm=true"))
    tunable = {n for n, _ in trainer.model.named_parameters() if n.startswith("backbone.")}
    tunable -= layer_norm_parameters(trainer.model)
    sizes = {name: len(indices) for name, indices in _indices(trainer).items()}
    assert sizes == {n: p.numel() for n, p in trainer.model.named_parameters() if n in tunable}


def test_a_language_module_leaves_output_matrix_and_layer_norm_out(make_trainer, make_method) -> None:
    method = make_method("random_sft", "method.density=0.5", "method.freeze_layer_norm=true")
    trainer = _attached(make_trainer, method, "mlm")
    fixed = layer_norm_parameters(trainer.model) | {"lm_head.predictions.decoder.weight"}
    assert not _indices(trainer).keys() & fixed
    assert len(_indices(trainer)["backbone.embeddings.word_embeddings.weight"]) > 0


@pytest.mark.parametrize(("weight_decay", "l1"), [(0.0, 0.0), (0.5, 0.0), (0.0, 40.0)])
def test_it_is_masked_fine_tuning_of_the_drawn_entries(
    weight_decay: float, l1: float, make_trainer, make_method, tmp_path: Path
) -> None:
    """Against full-size tensors with masked gradients; weight decay pulls deltas to 0, weights to where they began."""

    def trainer() -> Any:
        return make_trainer(
            make_method("random_sft", "method.density=0.1", f"method.l1={l1}"),
            dtype=torch.float64,
            evaluate_every_steps=NEVER,
            weight_decay=weight_decay,
            clip_norm=None,
        )

    ours = trainer()
    ours.train(tmp_path, Silence())
    chosen = _indices(ours)

    plain = trainer()
    body = {n: p for n, p in plain.model.named_parameters() if n.startswith("backbone.")}
    phi = {name: torch.zeros_like(parameter, requires_grad=True) for name, parameter in body.items()}
    theta0 = {name: parameter.detach().clone() for name, parameter in body.items()}
    head = list(plain.model.head.parameters())
    optimizer = torch.optim.AdamW([*phi.values(), *head], weight_decay=weight_decay, foreach=False)
    mix = Mix(list(plain.sources), 4, 1, "train")
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 4)
        batch = plain.task.collate(mix.batch(step).features, plain.encoder, stream(0))
        plain.model.zero_grad()
        (plain.task.loss(plain.model, batch) / plain.task.targets(batch)).backward()
        for name, parameter in body.items():
            mask = torch.zeros(parameter.numel(), dtype=torch.float64)
            mask[chosen.get(name, torch.empty(0, dtype=torch.int64))] = 1
            pull = l1 / plain.model.pretrained_parameters * torch.sign(phi[name].detach())
            phi[name].grad = (parameter.grad + pull) * mask.view(parameter.shape)
        optimizer.step()
        with torch.no_grad():
            for name, parameter in body.items():
                parameter.copy_(theta0[name] + phi[name])
    for name, parameter in plain.model.named_parameters():
        if l1 and name.endswith("key.bias"):  # softmax cancels it: its gradient is noise, and so is the pull's sign
            continue
        found = dict(ours.model.named_parameters())[name]
        torch.testing.assert_close(found, parameter, atol=1e-10, rtol=0, msg=name)
