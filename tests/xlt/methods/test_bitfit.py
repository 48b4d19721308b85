"""BitFit: exactly the biases outside layer normalisation, in the numbers of thesis §4.4.2."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, XLMRobertaConfig, XLMRobertaForMaskedLM

from xlt.data.streams import stream
from xlt.engine.watching import Silence
from xlt.methods.method import Budget, Setting
from xlt.models.transfer import TransferModel, split_pretrained


@pytest.mark.parametrize("kind", ["tagging", "mlm"])
def test_it_tunes_the_biases_of_the_backbone_and_no_layer_norm(
    kind: str, make_trainer, make_method, tmp_path: Path
) -> None:
    trainer = make_trainer(make_method("bitfit"), kind, weight_decay=0.1)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train(tmp_path, Silence())
    moved = {
        name
        for name, parameter in trainer.model.named_parameters()
        if name in before and not torch.equal(parameter, before[name]) and not name.startswith("head.")
    }
    places = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    places += ["intermediate.dense", "output.dense"]
    assert moved == {f"backbone.encoder.layer.{layer}.{place}.bias" for layer in (0, 1) for place in places}


@pytest.mark.parametrize(
    ("name", "total", "density"), [("bert", 177_974_523, 0.00047), ("xlm-roberta", 278_295_186, 0.00030)]
)
def test_its_density_is_that_of_the_thesis(name: str, total: int, density: float, make_method) -> None:
    """Thesis §4.4.2: 0.047% of mBERT and 0.030% of XLM-R; the shapes are theirs, the weights do not exist."""
    with torch.device("meta"):
        if name == "bert":
            pretrained = BertForMaskedLM(BertConfig(vocab_size=119_547))
        else:
            config = XLMRobertaConfig(vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1)
            pretrained = XLMRobertaForMaskedLM(config)
        model = TransferModel(*split_pretrained(pretrained), base_hash="none", base_name=name)
        method = make_method("bitfit")
        method.attach(model, method.phases(Budget(1, 1, None, 1, 1.0))[0], Setting(False, lambda *_: stream(0)))
    assert model.pretrained_parameters == total
    assert method.report() == {"tuned_entries": 82_944, "density": 82_944 / total}
    assert method.report()["density"] == pytest.approx(density, abs=0.000005)


def test_a_model_without_biases_is_refused(make_method) -> None:
    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 3, bias=False)

    model = TransferModel(Bare(), None, "none", "bare")
    method = make_method("bitfit")
    with pytest.raises(ValueError, match=r"method=bitfit.*bare"):
        method.attach(model, method.phases(Budget(1, 1, None, 1, 1.0))[0], Setting(False, lambda *_: stream(0)))
