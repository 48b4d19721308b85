"""MAD-G's generator against Eq. 3.1 and 3.2 written out, and the adapters it makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from xlt.modules import ModuleFileError, ModuleHeader, load_module
from xlt.modules.adapter import Adapter
from xlt.modules.generator import AdapterGenerator, Generator

SITES = {"backbone.encoder.layer.0.output.LayerNorm": "norm", "backbone.encoder.layer.1.output.LayerNorm": "norm"}
TABLE = torch.tensor([[1, 0, 1, 1, 0, 0, 0, 1, 1], [0, 1, 1, 0, 0, 1, 0, 0, 1]])


def _network(layer_size: int | None, bottleneck: int = 3) -> AdapterGenerator:
    network = AdapterGenerator(9, 2, 4, bottleneck, 5, layer_size)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return network


def _generator(layer_size: int | None) -> Generator:
    header = ModuleHeader(kind="generator", method="mad_g", base_model="m", base_hash="h", fingerprint="f")
    features = [f"S_{number}" for number in range(9)]
    return Generator(header, _network(layer_size), SITES, "relu", features, ["fao", "sme"], TABLE)


@pytest.mark.parametrize("layer_size", [None, 2])
def test_projections_are_those_of_the_equations(layer_size: int | None) -> None:
    network = _network(layer_size).double()
    vector = TABLE[0].double()
    language = sum(network.embed[:, feature] for feature in range(9) if TABLE[0, feature])
    for block, (down, up) in enumerate(network(vector)):
        if layer_size is None:
            parameters = network.weight[block * 24 : (block + 1) * 24] @ language
        else:
            assert network.layers is not None
            parameters = network.weight @ torch.cat((language, network.layers[block]))
        assert down.shape == (3, 4) and up.shape == (4, 3)
        torch.testing.assert_close(torch.cat((down.reshape(-1), up.reshape(-1))), parameters, atol=1e-12, rtol=0)


def test_a_generator_on_paper() -> None:
    """h = m = 1, d_l = 1, two features: V = (2, 3), W = (5; 7): of t = (1, 1), lambda = 5, D = 25 and U = 35."""
    network = AdapterGenerator(2, 1, 1, 1, 1, None)
    with torch.no_grad():
        network.embed.copy_(torch.tensor([[2.0, 3.0]]))
        network.weight.copy_(torch.tensor([[5.0], [7.0]]))
        ((down, up),) = network(torch.tensor([1.0, 1.0]))
        assert (float(down), float(up)) == (25.0, 35.0)
        ((down, up),) = network(torch.tensor([0.0, 1.0]))
        assert (float(down), float(up)) == (15.0, 21.0)
    # W V = (10 15; 14 21): columns of norm sqrt(296) and sqrt(666).
    torch.testing.assert_close(network.importance(), torch.tensor([[296.0**0.5, 666.0**0.5]]))


def test_parameters_are_as_many_as_the_thesis_counts_on_mbert() -> None:
    with torch.device("meta"):
        mad_g = AdapterGenerator(289, 12, 768, 384, 32, None)
        mad_g_ls = AdapterGenerator(289, 12, 768, 384, 32, 32)
    assert round(mad_g.weight.numel() / 1e6) == 226  # thesis §3.4.3; V adds 9 thousand
    assert round(mad_g_ls.weight.numel() / 1e6) == 38
    assert sum(parameter.numel() for parameter in mad_g.parameters()) == 226_492_416 + 289 * 32


@pytest.mark.parametrize("layer_size", [None, 2])
def test_importance_is_the_norm_of_the_columns_of_the_product(layer_size: int | None) -> None:
    network = _network(layer_size).double()
    found = network.importance()
    for block in range(2):
        rows = network.weight[block * 24 : (block + 1) * 24] if layer_size is None else network.weight
        torch.testing.assert_close(found[block], (rows[:, :5] @ network.embed).norm(dim=0), atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("layer_size", [None, 2])
def test_what_it_makes_is_an_ordinary_module(layer_size: int | None, tmp_path: Path) -> None:
    generator = _generator(layer_size)
    generator.save(tmp_path / "generator")
    loaded = load_module(tmp_path / "generator")
    for language, row in (("fao", 0), ("sme", 1)):
        made = loaded.for_language(language)
        assert isinstance(made, Adapter)
        assert (made.header.language, made.header.method, made.header.fingerprint) == (language, "mad_g", "f")
        for path, (down, up) in zip(SITES, generator.network(TABLE[row].float()), strict=True):
            assert torch.equal(made.adapters[path].down.weight, down)
            assert torch.equal(made.adapters[path].up.weight, up)
            assert not made.adapters[path].down.bias.any() and not made.adapters[path].up.bias.any()
        made.save(tmp_path / language)
        assert Adapter.load(tmp_path / language).header == made.header
    assert not torch.equal(
        loaded.for_language("fao").adapters[next(iter(SITES))].down.weight,  # type: ignore[attr-defined]
        loaded.for_language("sme").adapters[next(iter(SITES))].down.weight,  # type: ignore[attr-defined]
    )


def test_a_generator_itself_is_not_applied(tmp_path: Path) -> None:
    generator = _generator(None)
    with pytest.raises(ValueError, match="for_language"):
        generator.apply(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"\bdeu\b.*\b2\b"):
        generator.for_language("deu")
    with pytest.raises(ValueError, match="languages by features"):
        Generator(generator.header, generator.network, SITES, "relu", generator.features, ["fao"], TABLE)
    with pytest.raises(ValueError, match=r"\b1 sites.*\b2\b"):
        Generator(generator.header, generator.network, {"a": "norm"}, "relu", generator.features, ["fao", "sme"], TABLE)
    generator.save(tmp_path / "generator")
    (tmp_path / "generator").write_bytes((tmp_path / "generator").read_bytes()[:-8])
    with pytest.raises(ModuleFileError):
        load_module(tmp_path / "generator")


def test_a_generator_makes_the_adapter_of_a_variety_from_the_vector_of_its_code() -> None:
    generator = _generator(None)
    plain, variety = generator.for_language("sme"), generator.for_language("sme_Cyrl")
    assert variety.header.language == "sme_Cyrl"
    own, other = (list(adapter.to_tensors(None)[1].values()) for adapter in (plain, variety))
    assert all(torch.equal(one, two) for one, two in zip(own, other, strict=True))


def test_a_generator_of_one_variety_is_not_taken_for_another() -> None:
    header = ModuleHeader(kind="generator", method="mad_g", base_model="m", base_hash="h", language="sme_Latn")
    features = [f"S_{number}" for number in range(9)]
    generator = Generator(header, _network(None), SITES, "relu", features, ["sme_Latn"], TABLE[1:])
    assert generator.for_language("sme_Latn").header.language == "sme_Latn"
    for other in ("sme", "sme_Cyrl"):
        with pytest.raises(ValueError, match="no vector"):
            generator.for_language(other)
