"""AdapterHub's format beside the `adapters` library: what one saves, the other loads, in float64.

    python scripts/parity_adapter_hub.py --output parity_hub.json

`adapters` pins an older transformers: run this in an environment of its own, xlt installed first. The library saves an
adapter, as safetensors and as a pickle, and we read it (`bin`, `safetensors`). Then we write the module that we read,
and the library loads that (`written`). Each number is the largest absolute difference of the representations; `effect`
is how far the adapter moves them. With `--golden tests/data/adapters_hub` the script also writes the files that the
test suite compares with, since the test suite runs without the library.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from adapters_library import FAMILIES, largest_difference, parity_options, versions
from benchmark.report import write_record
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from xlt.models.sublayers import find_blocks, output_embeddings
from xlt.models.transfer import TransferModel, split_pretrained
from xlt.modules import ModuleStack, read_adapter_hub, write_adapter_hub

_IDS = torch.tensor([[3, 14, 15, 9, 2], [5, 17, 8, 9, 7]])
_NAME = "est"


def configurations() -> dict[str, Any]:
    """Configurations of the library's adapters, by their names there; the models have three blocks."""
    from adapters import BnConfig, DoubleSeqBnConfig, DoubleSeqBnInvConfig, SeqBnConfig, SeqBnInvConfig

    named: dict[str, BnConfig] = {
        "seq_bn_inv": SeqBnInvConfig(reduction_factor=2, leave_out=[2]),
        "seq_bn": SeqBnConfig(reduction_factor={"1": 5, "default": 0.5}, non_linearity="gelu", leave_out=[0]),
        "double_seq_bn": DoubleSeqBnConfig(reduction_factor=4),
        "double_seq_bn_inv": DoubleSeqBnInvConfig(reduction_factor=3, inv_adapter_reduction_factor=5),
    }
    return named


@torch.no_grad()
def compare(make: Callable[[], Any], config: Any) -> dict[str, float]:
    """Largest absolute differences, by the names in the file's docstring.

    `written` is NaN where the library reports tensors that are missing or left over.
    """
    theirs, ours = _models(make)
    plain = ours.encode(_IDS, torch.ones_like(_IDS))
    _add(theirs, config)
    expected = _their_hidden(theirs)
    differences = {"effect": largest_difference(expected, plain)}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("bin", "safetensors"):
            saved = Path(folder) / kind
            theirs.save_adapter(saved, _NAME, with_head=False, use_safetensors=kind == "safetensors")
            module = _read(saved, ours)
            ModuleStack(ours).set([module])
            differences[kind] = largest_difference(ours.encode(_IDS, torch.ones_like(_IDS)), expected)
            ModuleStack(ours).set([])
        written = Path(folder) / "written"
        write_adapter_hub(module, written, name=_NAME, model=ours, blocks=find_blocks(ours))
        other, _ = _models(make)
        report: dict[str, list[str]] = {}
        torch.set_default_dtype(torch.float64)  # the library makes its layers in this dtype, then fills them
        other.load_adapter(str(written), with_head=False, use_safetensors=True, set_active=True, loading_info=report)
        torch.set_default_dtype(torch.float32)
        whole = not report["missing_keys"] and not report["unexpected_keys"]
        differences["written"] = largest_difference(_their_hidden(other), expected) if whole else float("nan")
    return differences


@torch.no_grad()
def write_golden(folder: Path) -> None:
    """Saves adapters of a tiny BERT, in float32, and the representations that the library computes in float64."""
    from adapters import DoubleSeqBnConfig, SeqBnInvConfig

    size = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "max_position_embeddings": 8}
    shape = BertConfig(**size, num_hidden_layers=2, num_attention_heads=2, type_vocab_size=1)
    results: dict[str, Tensor] = {"ids": _IDS}
    saved = {
        "pfeiffer_bin": SeqBnInvConfig(reduction_factor=2, leave_out=[1]),
        "pfeiffer_safetensors": SeqBnInvConfig(reduction_factor=2, leave_out=[1]),
        "houlsby_safetensors": DoubleSeqBnConfig(reduction_factor=4),
    }
    for name, config in saved.items():
        theirs, ours = _models(lambda: BertForMaskedLM(shape), torch.float32)
        _add(theirs, config, torch.float32)
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
        theirs.save_adapter(folder / name, _NAME, with_head=False, use_safetensors=name.endswith("safetensors"))
        results |= {f"base/{key}": parameter.clone() for key, parameter in ours.named_parameters()}
        results[f"{name}/hidden"] = _their_hidden(theirs.double())
    save_file(results, folder / "results.safetensors")


def _models(make: Callable[[], Any], dtype: torch.dtype = torch.float64) -> tuple[Any, TransferModel]:
    """The library's model and ours, of the same weights."""
    import adapters

    torch.manual_seed(0)
    theirs, twin = make().to(dtype).eval(), make().to(dtype).eval()
    for parameter in theirs.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    twin.load_state_dict(theirs.state_dict())
    ours = TransferModel(*split_pretrained(twin), "hash", "tiny")
    adapters.init(theirs)
    return theirs, ours


def _add(theirs: Any, config: Any, dtype: torch.dtype = torch.float64) -> None:
    """Adds an adapter with random weights to the library's model."""
    before = {id(parameter) for parameter in theirs.parameters()}
    theirs.add_adapter(_NAME, config, set_active=True)
    theirs.to(dtype).eval()
    for parameter in theirs.parameters():
        if id(parameter) not in before:
            parameter.add_(torch.randn_like(parameter), alpha=0.3)


def _read(folder: Path, ours: TransferModel) -> Any:
    blocks, output = find_blocks(ours), output_embeddings(ours)
    return read_adapter_hub(
        folder, base_model="tiny", base_hash="hash", model=ours, blocks=blocks, output=output, language=_NAME
    )


def _their_hidden(theirs: Any) -> Tensor:
    return theirs.base_model(input_ids=_IDS, attention_mask=torch.ones_like(_IDS)).last_hidden_state


def main() -> None:
    options = parity_options(__doc__)
    logging.getLogger("adapters").setLevel(logging.ERROR)
    if options.golden is not None:
        write_golden(options.golden)
    rows = {}
    for family, make in FAMILIES.items():
        for name, config in configurations().items():
            row = rows[f"{family} {name}"] = compare(make, config)
            print(f"{family:12} {name:18} " + "  ".join(f"{key} {value:.3g}" for key, value in row.items()))
    write_record({"versions": versions(), "rows": rows}, options.output)


if __name__ == "__main__":
    main()
