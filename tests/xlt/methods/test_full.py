"""Full fine-tuning and pre-training."""

from __future__ import annotations

from pathlib import Path

import torch

from xlt.data.mix import Mix
from xlt.data.streams import stream
from xlt.engine.watching import Silence
from xlt.methods.method import Budget
from xlt.models.transfer import layer_norm_parameters

EMBEDDINGS = "backbone.embeddings.word_embeddings.weight"
OUTPUT_MATRIX = "lm_head.predictions.decoder.weight"


def test_it_is_ordinary_fine_tuning(make_trainer, make_method, tmp_path: Path) -> None:
    """Against a bare torch loop: AdamW with decay, clipping at 1, linear decay of the rate, dropout off."""
    about = {"dtype": torch.float64, "weight_decay": 0.1, "evaluate_every_steps": 100}
    ours, plain = (make_trainer(make_method("full"), **about) for _ in range(2))
    ours.train(tmp_path, Silence())
    optimizer = torch.optim.AdamW(plain.model.parameters(), weight_decay=0.1, foreach=False)
    mix = Mix(list(plain.sources), 4, 1, "train")
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 4)
        batch = plain.task.collate(mix.batch(step).features, plain.encoder, stream(0))
        optimizer.zero_grad()
        (plain.task.loss(plain.model, batch) / plain.task.targets(batch)).backward()
        torch.nn.utils.clip_grad_norm_(plain.model.parameters(), 1.0)
        optimizer.step()
    for name, parameter in plain.model.named_parameters():
        torch.testing.assert_close(dict(ours.model.named_parameters())[name], parameter, atol=1e-10, rtol=0, msg=name)


def test_the_module_is_the_dense_difference(make_trainer, make_method, module_header, tmp_path: Path) -> None:
    trainer = make_trainer(make_method("full"))
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train(tmp_path, Silence())
    module = trainer.method.export(trainer.model, module_header())
    assert {*module.entries, *module.tensors} == before.keys()
    for name, entries in module.entries.items():
        assert entries.indices is None
        difference = dict(trainer.model.named_parameters())[name].detach() - before[name]
        assert torch.equal(entries.values, difference.view(-1))


def test_layer_norm_stays_fixed_if_asked(make_trainer, make_method, tmp_path: Path, bits) -> None:
    trainer = make_trainer(make_method("full", "method.freeze_layer_norm=true"), weight_decay=0.1)
    before = bits(trainer.model.state_dict())
    trainer.train(tmp_path, Silence())
    after = bits(trainer.model.state_dict())
    fixed = layer_norm_parameters(trainer.model)
    assert len(fixed) == 10
    assert {name for name in after if after[name] == before[name]} == fixed


def test_a_language_run_unties_and_fixes_the_output_matrix(make_trainer, make_method, tmp_path: Path, bits) -> None:
    trainer = make_trainer(make_method("full"), "mlm", weight_decay=0.1)
    before = bits(trainer.model.state_dict())
    trainer.train(tmp_path, Silence())
    after = bits(trainer.model.state_dict())
    assert after[OUTPUT_MATRIX] == before[OUTPUT_MATRIX] == before[EMBEDDINGS] != after[EMBEDDINGS]


def test_pre_training_keeps_embeddings_tied_and_trains_the_whole_head(
    make_trainer, make_method, tmp_path: Path, bits
) -> None:
    trainer = make_trainer(make_method("pretrain"), "mlm")
    before = bits(dict(trainer.model.named_parameters()))
    trainer.train(tmp_path, Silence())
    assert trainer.model.lm_head.predictions.decoder.weight is trainer.model.backbone.get_input_embeddings().weight
    after = bits(dict(trainer.model.named_parameters()))
    assert before.keys() == after.keys()
    assert all(after[name] != before[name] for name in before)
    assert trainer.method.leaves_checkpoint


def test_one_phase_as_long_as_the_recipe_says(make_method) -> None:
    (phase,) = make_method("full").phases(Budget(7, 1, None, 1, 1e-3))
    assert (phase.steps, phase.learning_rate) == (7, 1e-3)
