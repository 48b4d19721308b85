"""AdapterHub's format. `tests/data/adapters_hub` is of the `adapters` library: `scripts/parity_adapter_hub.py`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.tolerance import summation_tolerance
from tests.xlt.modules.adapter_hub_files import (
    GOLDEN,
    SIZE,
    change_config,
    change_tensors,
    convert_to_early_config,
    convert_to_pickle,
    is_same,
    make_module,
    networks,
    read,
    tiny_model,
    write,
)
from xlt.models.sublayers import find_blocks
from xlt.modules import ModuleFileError, load_module
from xlt.modules.adapter import Adapter, BottleneckAdapter, Ends, InvertibleAdapter
from xlt.modules.adapter_hub_settings import factor_for


@pytest.mark.parametrize("name", ["pfeiffer_bin", "pfeiffer_safetensors", "houlsby_safetensors"])
def test_what_the_library_saved_computes_what_the_library_does(name: str) -> None:
    """The stored numbers are float64 of one machine; another may be off by the order of its sums in each block."""
    kept, model = load_file(GOLDEN / "results.safetensors"), tiny_model()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            parameter.copy_(kept[f"base/{path}"])
    module = read(GOLDEN / name, model, language="est")
    for network in networks(module):
        network.double()
    model.double()
    plain = model.encode(kept["ids"], torch.ones_like(kept["ids"]))
    module.apply(model)
    hidden = model.encode(kept["ids"], torch.ones_like(kept["ids"]))
    wanted = kept[f"{name}/hidden"]
    terms = SIZE["num_hidden_layers"] * (SIZE["hidden_size"] + SIZE["intermediate_size"])
    tolerance = summation_tolerance(terms, torch.float64) * float(wanted.abs().max())
    torch.testing.assert_close(hidden, wanted, atol=tolerance, rtol=0)
    assert (hidden - plain).abs().max() > 0.1


def test_pickle_and_safetensors_hold_the_same_module() -> None:
    assert is_same(read(GOLDEN / "pfeiffer_bin"), read(GOLDEN / "pfeiffer_safetensors"))


def test_the_header_says_where_the_module_came_from() -> None:
    header = read(GOLDEN / "pfeiffer_bin", language="est", task="mlm").header
    assert (header.method, header.language, header.task, header.base_model) == ("mad_x", "est", "mlm", "tiny")
    assert header.provenance["imported_from"] == "AdapterHub"
    assert header.provenance["file"] == "pytorch_adapter.bin" and len(header.provenance["blake2b"]) == 64
    assert (header.provenance["name"], header.provenance["version"]) == ("est", "adapters.1.3.0")
    assert read(GOLDEN / "houlsby_safetensors").header.method == "houlsby"


def test_what_acts_in_training_alone_is_kept_and_does_nothing(golden_adapter: Path) -> None:
    plain = read(golden_adapter)
    change_config(golden_adapter, lambda content: content["config"].update(dropout=0.3))
    assert plain.header.provenance["in_training_only"] == {"init_weights": "bert"}
    module = read(golden_adapter)
    assert module.header.provenance["in_training_only"] == {"dropout": 0.3, "init_weights": "bert"}
    assert is_same(module, plain)


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "llama"])
@pytest.mark.parametrize("where", ["feed_forward", "both_sublayers"])
@pytest.mark.parametrize(
    ("sizes", "inner", "activation"),
    [((3, 3), None, "relu"), ((8, 0), (1, 1), "silu"), ((0, 5), (4, 4), "gelu"), ((11, 2), None, "tanh")],
)
def test_what_is_written_is_read_bit_for_bit(
    tmp_path: Path, family: str, where: str, sizes: tuple[int, ...], inner: tuple[int, int] | None, activation: str
) -> None:
    model = tiny_model(family)
    module = make_module(model, where, sizes, inner, activation)
    write(module, tmp_path / "hub", model)
    assert is_same(read(tmp_path / "hub", model), module)


def test_a_wider_dtype_and_a_hidden_size_that_no_factor_divides_are_kept(tmp_path: Path) -> None:
    model = tiny_model(hidden_size=9, num_attention_heads=3)
    module = make_module(model, sizes=(4, 5), inner=(2, 2))
    for network in networks(module):
        network.double()
    write(module, tmp_path / "hub", model)
    config = json.loads((tmp_path / "hub" / "adapter_config.json").read_text())["config"]
    assert {block: int(9 // factor) for block, factor in config["reduction_factor"].items()} == {"0": 4, "1": 5}
    assert is_same(read(tmp_path / "hub", model), module)
    module.save(tmp_path / "own")
    assert is_same(load_module(tmp_path / "own"), module)


@pytest.mark.parametrize("name", ["pfeiffer_safetensors", "houlsby_safetensors"])
def test_what_was_read_is_written_as_the_library_did(tmp_path: Path, name: str) -> None:
    model = tiny_model()
    write(read(GOLDEN / name, model), tmp_path / "hub", model)
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {"adapter_config.json", "adapter.safetensors"}
    ours, theirs = (load_file(folder / "adapter.safetensors") for folder in (tmp_path / "hub", GOLDEN / name))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)
    written, kept = (
        json.loads((folder / "adapter_config.json").read_text()) for folder in (tmp_path / "hub", GOLDEN / name)
    )
    assert written.keys() == kept.keys()
    assert {key: kept["config"][key] for key in written["config"]} == written["config"]
    assert (written["model_name"], written["name"], written["hidden_size"]) == ("tiny", "est", 8)
    assert not written["version"].startswith("adapters.")


@pytest.mark.parametrize("kind", ["lang", "task"])
@pytest.mark.parametrize("zipped", [True, False])
def test_an_adapter_of_the_first_versions_is_read(golden_adapter: Path, kind: str, zipped: bool) -> None:
    module = read(golden_adapter)
    change_config(golden_adapter, convert_to_early_config)
    early = {"output.adapters": f"output.layer_text_{kind}_adapters", "invertible_adapters": "invertible_lang_adapters"}

    def renamed(name: str) -> str:
        for today, then in early.items():
            name = name.replace(today, then)
        return name

    convert_to_pickle(golden_adapter, renamed, zipped)
    assert is_same(read(golden_adapter), module)


def test_both_sublayers_of_the_first_versions_are_read(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "houlsby_safetensors", tmp_path / "golden_adapter"))
    module = read(folder)

    def renamed(name: str) -> str:
        name = name.replace("attention.output.adapters", "attention.output.attention_text_task_adapters")
        return name.replace("output.adapters", "output.layer_text_task_adapters")

    convert_to_pickle(folder, renamed)
    assert is_same(read(folder), module)


def test_an_invertible_adapter_that_early_task_adapters_never_had_is_not_missed(golden_adapter: Path) -> None:
    def without(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if "invertible" in name]:
            del tensors[name]

    change_tensors(golden_adapter, without)
    with pytest.raises(ModuleFileError, match=r"lacks the tensor 'invertible_adapters\.est\.F\.0\.weight' and 7 more"):
        read(golden_adapter)
    change_config(golden_adapter, lambda content: content.update(type="text_task"))
    assert read(golden_adapter).invertible is None


def test_a_configuration_may_be_named_and_tensors_may_lack_the_prefix(tmp_path: Path) -> None:
    model = tiny_model(hidden_size=32)
    for name, where, activation, inner in (
        ("pfeiffer", "feed_forward", "relu", None),
        ("houlsby+inv", "both_sublayers", "silu", (8, 8)),
        ("seq_bn_inv", "feed_forward", "relu", (8, 8)),
        ("double_seq_bn", "both_sublayers", "silu", None),
    ):
        module = make_module(model, where, (2, 2), inner, activation)
        write(module, tmp_path / name, model)
        change_config(tmp_path / name, lambda content, name=name: content.update(config=name))
        convert_to_pickle(tmp_path / name, lambda tensor: tensor.removeprefix("bert."))
        assert is_same(read(tmp_path / name, model), module)


def test_a_head_is_left_out_only_when_asked(tmp_path: Path) -> None:
    model = tiny_model()
    plain = make_module(model, task="pos")
    module = Adapter(plain.header, plain.adapters, plain.placements, tensors={"head.weight": torch.ones(2, 8)})
    with pytest.raises(ModuleFileError, match=r"head\.weight.*without_head=True"):
        write(module, tmp_path / "hub", model)
    assert not (tmp_path / "hub").exists()
    write(module, tmp_path / "hub", model, without_head=True)
    assert is_same(read(tmp_path / "hub", model), plain)


def test_a_module_that_the_format_cannot_express_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    blocks = find_blocks(model)
    other = BottleneckAdapter(8, 3, "gelu")

    def refused(adapters: dict[str, BottleneckAdapter], placements: dict[str, str], fault: str, *more: Any) -> None:
        module = Adapter(make_module(model).header, adapters, placements, *more)
        with pytest.raises(ModuleFileError, match=fault) as error:
            write(module, tmp_path / "hub", model)
        assert "\n" not in str(error.value) and not list(tmp_path.iterdir())

    plain, both = make_module(model), make_module(model, "both_sublayers")
    first = blocks[0].attention
    refused({first: other}, {first: "branch"}, "block 0 has bottlenecks")
    refused({**both.adapters, first: BottleneckAdapter(8, 4, "relu")}, both.placements, r"bottlenecks \[4, 3\]")
    refused({**plain.adapters, blocks[1].norm or "": other}, plain.placements, "activations are gelu, relu")
    refused({**plain.adapters, first: other}, {**plain.placements, first: "branch"}, "puts an adapter at backbone")
    refused(plain.adapters, dict.fromkeys(plain.adapters, "sum"), r"puts an adapter at .* \(placement sum\)")
    refused({}, {}, "puts an adapter at all")
    invertible = InvertibleAdapter(8, (2, 2), "relu")
    refused(plain.adapters, plain.placements, r"is before backbone.*\.1, not", invertible, Ends(blocks[1].path, None))
    unequal, ends = InvertibleAdapter(8, (1, 4), "relu"), Ends(blocks[0].path, None)
    refused(plain.adapters, plain.placements, "1 of 4, 4 of 4", unequal, ends)
    with pytest.raises(ModuleFileError, match=r"name='a\.b'"):
        write(plain, tmp_path / "hub", model, name="a.b")
    with pytest.raises(ModuleFileError, match="belongs to base model 'tiny' with hash other"):
        write(make_module(model, base_hash="other"), tmp_path / "hub", model)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    for step in range(3):  # each of the two files, and the name
        calls = iter(range(9))

        def fails(*_: object, calls: Any = calls, step: int = step) -> None:
            if next(calls) == step:
                raise OSError("no space left")

        with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
            patch.setattr(os, "fsync", fails)
            patch.setattr(Path, "replace", fails)
            write(make_module(model), tmp_path / "hub", model)
        assert not list(tmp_path.iterdir())


def test_nothing_that_is_there_is_overwritten(golden_adapter: Path) -> None:
    model = tiny_model()
    before = {path.name: path.read_bytes() for path in golden_adapter.iterdir()}
    with pytest.raises(ModuleFileError, match="not an empty folder"):
        write(make_module(model), golden_adapter, model)
    assert {path.name: path.read_bytes() for path in golden_adapter.iterdir()} == before
    with pytest.raises(ModuleFileError, match="not an empty folder"):
        write(make_module(model), golden_adapter / "adapter_config.json", model)
    (golden_adapter / "empty").mkdir()
    write(make_module(model), golden_adapter / "empty", model)
    assert is_same(read(golden_adapter / "empty", model), make_module(model))


def test_a_reduction_factor_makes_exactly_the_size_asked_for() -> None:
    for inputs in range(1, 70):
        for inner in range(1, 140):
            assert int(inputs // factor_for([(inputs, inner)])) == inner
    assert factor_for([(768, 48)]) == 16 and isinstance(factor_for([(768, 48)]), int)
    assert factor_for([(384, 192), (385, 192)]) == 2
    with pytest.raises(ValueError, match="1 of 4, 4 of 4"):
        factor_for([(4, 1), (4, 4)])
