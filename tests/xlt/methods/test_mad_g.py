"""MAD-G: what the contract suite does not see, several languages and what is left for others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tolerance import summation_tolerance
from xlt.engine.watching import Silence
from xlt.methods.method import Budget
from xlt.models.transfer import TransferModel
from xlt.modules.adapter import Adapter
from xlt.modules.generator import Generator

LANGUAGES = ("eng", "deu", "fao")
LONGEST_SUMS = 32 + 64  # over the hidden size and over that of the feed-forward layer


@pytest.mark.parametrize("name", ["mad_g", "mad_g_ls"])
def test_a_run_over_several_languages_leaves_a_generator_for_all(
    name: str, make_method, make_trainer, module_header, tmp_path: Path
) -> None:
    trainer = make_trainer(make_method(name), "mlm", languages=LANGUAGES, learning_rate=2e-2, max_steps=6)
    base = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train(tmp_path, Silence())
    generator = trainer.method.export(trainer.model, module_header())
    assert isinstance(generator, Generator) and generator.header.method
    assert set(LANGUAGES) < set(generator.codes) and "sme" in generator.codes
    assert all(torch.equal(trainer.model.get_parameter(n), p) for n, p in base.items())
    hidden = {}
    rows = [row for source in trainer.sources for row in source.features]
    batch = trainer.task.collate(rows, trainer.encoder, torch.Generator().manual_seed(0))
    for language in (*LANGUAGES, "sme"):  # the last never trained on
        fresh = make_trainer(make_method("mad_x"), "mlm").model.eval()
        module = generator.for_language(language)
        assert isinstance(module, Adapter)
        module.apply(fresh)
        with torch.no_grad():
            hidden[language] = fresh.encode(batch["input_ids"], batch["attention_mask"])
        if language == "sme":
            continue
        trainer.method.language(language)
        trainer.method.write()
        trainer.model.eval()
        with torch.no_grad():
            trained = trainer.model.encode(batch["input_ids"], batch["attention_mask"])
        tolerance = summation_tolerance(LONGEST_SUMS, torch.float32) * float(trained.abs().max())
        torch.testing.assert_close(hidden[language], trained, atol=tolerance, rtol=0)
    assert len({tuple(found.reshape(-1).tolist()) for found in hidden.values()}) == 4


def test_every_batch_trains_the_generator_through_its_own_language(make_method, make_trainer, tmp_path: Path) -> None:
    trainer = make_trainer(make_method("mad_g"), "mlm", languages=LANGUAGES)
    method, heard = trainer.method, []
    language, loss = method.language, method.loss

    def listen(code: str) -> None:
        language(code)
        heard.append(code)

    def check(model, batch, of_task):
        result = loss(model, batch, of_task)
        expected = method._network(method._typology.vectors([heard[-1]])[0])
        for found, wanted in zip(method._projections, expected, strict=True):
            assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
        assert all(made.requires_grad for pair in method._projections for made in pair)
        return result

    method.language, method.loss = listen, check
    trainer.train(tmp_path, Silence())
    assert set(heard) == set(LANGUAGES)


def test_languages_without_a_vector_are_named_before_anything_is_loaded(make_method) -> None:
    (line,) = make_method("mad_g").language_faults(["eng", "nah"])
    assert line.startswith("language=nah: urielplus has no vector of Nahuatl languages; ")
    assert make_method("mad_x").language_faults(["nah"]) == []


def test_an_adapter_is_fine_tuned_from_what_a_generator_makes(
    make_method, make_trainer, module_header, tmp_path: Path
) -> None:
    trainer = make_trainer(make_method("mad_g"), "mlm", languages=LANGUAGES, learning_rate=2e-2, max_steps=6)
    trainer.train(tmp_path / "generator", Silence())
    made = trainer.method.export(trainer.model, module_header()).for_language("sme")
    rows = [row for source in trainer.sources for row in source.features]
    batch = trainer.task.collate(rows, trainer.encoder, torch.Generator().manual_seed(0))

    def hidden(model: TransferModel) -> torch.Tensor:
        with torch.no_grad():
            return model.eval().encode(batch["input_ids"], batch["attention_mask"])

    fresh = make_trainer(make_method("mad_x"), "mlm").model
    plain = hidden(fresh)
    made.apply(fresh)
    generated = hidden(fresh)
    assert (generated - plain).abs().max() > 1e-3

    tuned = make_trainer(make_method("pfeiffer"), "mlm", learning_rate=1e-2)
    tuned.method.start_from(made)
    (phase,) = tuned.method.phases(Budget(2, 1, None, 1, 1e-2))
    tuned.method.attach(tuned.model, phase, tuned.setting)
    tolerance = summation_tolerance(LONGEST_SUMS, torch.float32) * float(generated.abs().max())
    torch.testing.assert_close(hidden(tuned.model), generated, atol=tolerance, rtol=0)

    again = make_trainer(make_method("pfeiffer"), "mlm", learning_rate=1e-2)
    again.method.start_from(made)
    again.train(tmp_path / "tuned", Silence())
    module = again.method.export(again.model, module_header())
    for path, adapter in module.adapters.items():
        assert all(not torch.equal(adapter.get_parameter(n), p) for n, p in made.adapters[path].named_parameters())


@pytest.mark.parametrize(
    "words, message",
    [
        (["method.leave_out_last=1"], r"\b2 adapters .*\b1 of this run.*method.leave_out_last"),
        (["method.reduction_factor=4"], r"the adapter at .* size.*reduction_factor"),
        (["method.activation=gelu"], r"the adapter at .* has another activation; check method.activation"),
        (
            ["method.invertible=true"],
            r"method.invertible=True .*<adapter module \(.*language=sme\)",
        ),
    ],
)
def test_a_start_module_that_does_not_fit_the_run_is_refused(
    words: list[str], message: str, make_method, make_trainer, module_header, tmp_path: Path
) -> None:
    trainer = make_trainer(make_method("mad_g"), "mlm", languages=LANGUAGES)
    trainer.train(tmp_path / "generator", Silence())
    generator = trainer.method.export(trainer.model, module_header())
    other = make_trainer(make_method("pfeiffer", *words), "mlm")
    with pytest.raises(ValueError, match="pfeiffer"):
        other.method.start_from(generator)
    other.method.start_from(generator.for_language("sme"))
    with pytest.raises(ValueError, match=message):
        other.train(tmp_path / "other", Silence())
