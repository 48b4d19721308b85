"""Writes LoRA and (IA)^3 modules as folders that the `peft` library loads, and reads such folders of others.

A folder has `adapter_config.json` and `adapter_model.safetensors`. A tensor is named `base_model.model.` + its path in
the model of transformers; the layers of our modules are below the body of that model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from xlt.errors import UsageError
from xlt.files import atomic_folder
from xlt.models.loading import whole_pretrained
from xlt.models.transfer import TransferModel, block_linear_layers, is_transposed
from xlt.modules import LowRankDelta, ModuleArtefact, ModuleFileError, ModuleHeader, Rescaling
from xlt.modules.module_file import read_whole_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX, _OURS, _WEIGHT = "base_model.model.", "backbone.", ".weight"
# Settings of a LoRA that change what it computes in a way that a delta of the weights does not have.
_OTHER = {
    "use_dora": False,
    "lora_bias": False,
    "bias": "none",
    "megatron_config": None,
    "alora_invocation_tokens": None,
    "layer_replication": None,
}
# Beginnings of `init_lora_weights` with which peft changes the base's weights, each time that it loads the folder.
_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def write_peft(module: ModuleArtefact, model: TransferModel, folder: Path, *, task_type: str | None = None) -> None:
    """Writes a module for a base model.

    Args:
        module: `LowRankDelta` or `Rescaling`; a task head in it is left out.
        model: the base model, whose layers it changes.
        folder: a new or empty folder.
        task_type: of peft, such as CAUSAL_LM; None: none, so that the folder suits every class of transformers.
    Raises:
        UsageError: the module is of another kind.
    """
    if isinstance(module, LowRankDelta):
        config, tensors = _lora(module, model)
    elif isinstance(module, Rescaling):
        config, tensors = _ia3(module, model)
    else:
        raise UsageError(f"{module.header}: peft has no such modules; it has LoRA and (IA)^3")
    about = {
        "base_model_name_or_path": model.base_name,
        "task_type": task_type,
        "inference_mode": True,
        "revision": None,
        "modules_to_save": None,
        "fan_in_fan_out": all(map(is_transposed, block_linear_layers(model).values())),
        **config,
    }
    text = json.dumps(about, indent=2, sort_keys=True) + "\n"
    with atomic_folder(folder) as temporary:
        (temporary / CONFIG).write_text(text, encoding="utf-8")
        safetensors.torch.save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})


def _path(name: str, model: TransferModel) -> str:
    """Returns the path of a layer in the model of transformers, given the name of its weight in ours."""
    prefix = whole_pretrained(model).base_model_prefix if whole_pretrained(model) is not model.backbone else ""
    path = name.removeprefix(_OURS).removesuffix(_WEIGHT)
    return f"{prefix}.{path}" if prefix else path


def _lora(module: LowRankDelta, model: TransferModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    layers = block_linear_layers(model)
    tensors, ranks = {}, {}
    for name, (a, b) in module.factors.items():
        if name not in layers:
            raise UsageError(f"{module.header}: {name!r} is no linear layer of the model's blocks, which peft needs")
        # The weight of a transposed layer is (in, out), and so is its delta: A and B are the transposes of peft's B, A.
        down, up = (b.t(), a.t()) if is_transposed(layers[name]) else (a, b)
        path = _path(name, model)
        tensors[f"{_PREFIX}{path}.lora_A.weight"] = down.float().contiguous()
        tensors[f"{_PREFIX}{path}.lora_B.weight"] = up.float().contiguous()
        ranks[path] = int(down.shape[0])
    usual = max(set(ranks.values()), key=[*ranks.values()].count)
    others = {re.escape(path): rank for path, rank in ranks.items() if rank != usual}
    config = {
        "peft_type": "LORA",
        "r": usual,
        "lora_alpha": module.scale * usual,
        "rank_pattern": others,
        "alpha_pattern": {path: module.scale * rank for path, rank in others.items()},
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(ranks),
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
    }
    return config, tensors


def _ia3(module: Rescaling, model: TransferModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    layers = block_linear_layers(model)
    tensors, inputs = {}, []
    for name, factor in module.factors.items():
        if not name.endswith(_WEIGHT):
            continue  # the bias is rescaled with the output of the layer
        layer = layers.get(name)
        if layer is None:
            raise UsageError(f"{module.header}: {name!r} is no linear layer of the model's blocks, which peft needs")
        factor = factor.t() if is_transposed(layer) else factor
        path = _path(name, model)
        tensors[f"{_PREFIX}{path}.ia3_l"] = factor.float().contiguous()
        if factor.shape[0] == 1:
            inputs.append(path)
    targets = sorted(key.removeprefix(_PREFIX).removesuffix(".ia3_l") for key in tensors)
    return {"peft_type": "IA3", "target_modules": targets, "feedforward_modules": sorted(inputs)}, tensors


def is_peft(folder: Path) -> bool:
    """Returns whether a folder is one of peft's."""
    try:
        return "peft_type" in json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def read_peft(
    folder: Path, model: TransferModel, header: Mapping[str, Any], *, without_head: bool = False
) -> LowRankDelta | Rescaling:
    """Reads a LoRA or (IA)^3 of peft.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        model: the base model.
        header: fields of the module's header.
        without_head: leave out a task's head. Fully trained tensors of the model's body are always refused.
    Raises:
        ModuleFileError: the folder has something that no delta of weights computes, or does not fit the model.
    """
    settings = json.loads(read_whole_file(folder / CONFIG, "expected a folder of peft").decode("utf-8"))
    kind = settings.get("peft_type")
    if kind not in ("LORA", "IA3"):
        raise ModuleFileError(folder / CONFIG, f"is of peft's type {kind}; xlt reads LORA and IA3")
    for name, usual in _OTHER.items():
        if settings.get(name, usual) not in (usual, None):
            raise ModuleFileError(folder / CONFIG, f"has {name}={settings[name]}, which a delta of weights cannot be")
    start = str(settings.get("init_lora_weights", "")).lower()
    if kind == "LORA" and start.startswith(_OTHER_BASE):
        raise ModuleFileError(
            folder / CONFIG,
            f"has init_lora_weights={start}, with which peft changes the weights of the base model; save the LoRA with "
            "path_initial_model_for_weight_conversion of peft's save_pretrained, which makes one for the base as it is",
        )
    if not (folder / WEIGHTS).is_file():
        raise ModuleFileError(
            folder, f"has no {WEIGHTS}; other files of weights are not read, because they are pickles"
        )
    data = read_whole_file(folder / WEIGHTS, "expected a file of safetensors")
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ModuleFileError(folder / WEIGHTS, f"is damaged, or no file of safetensors: {error}") from error
    about, method = {"imported_from": "peft", "name": folder.name}, kind.lower()
    if kind == "IA3":
        factors, sizes = _read_ia3(folder, model, tensors, without_head=without_head)
        return Rescaling(ModuleHeader(kind=Rescaling.kind, method=method, provenance=about, **header), factors, sizes)
    try:
        products = _read_lora(folder, model, tensors, settings, without_head=without_head)
    except ModuleFileError:
        raise
    except (TypeError, ValueError, AttributeError, re.error) as error:  # numbers and patterns of the settings
        raise ModuleFileError(folder / CONFIG, f"has settings that cannot be used: {error}") from error
    return LowRankDelta(ModuleHeader(kind=LowRankDelta.kind, method=method, provenance=about, **header), products, 1.0)


def _read_lora(
    folder: Path,
    model: TransferModel,
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    *,
    without_head: bool,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns name of a weight -> A and B, with the scale in B."""
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for path, name, layer, key in _changed(folder, model, tensors, ".lora_A.weight", without_head, also=".lora_B."):
        other = key.replace("lora_A", "lora_B")
        if other not in tensors:
            raise ModuleFileError(folder / WEIGHTS, f"has the tensor {key!r} without {other!r}")
        down, up = tensors[key].float(), tensors[other].float()
        up = up * _scale(settings, path, int(down.shape[0]))
        factors[name] = (up.t(), down.t()) if is_transposed(layer) else (down, up)
    return factors


def _read_ia3(
    folder: Path, model: TransferModel, tensors: Mapping[str, Tensor], *, without_head: bool
) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """Returns name of a weight or bias -> its factor, and -> its shape.

    A factor is (out, 1) for the output of a layer, whose bias it rescales, too, or (1, in) for the input.
    """
    factors: dict[str, Tensor] = {}
    sizes: dict[str, tuple[int, ...]] = {}
    for path, name, layer, key in _changed(folder, model, tensors, ".ia3_l", without_head):
        rows, columns = reversed(layer.weight.shape) if is_transposed(layer) else layer.weight.shape
        factor = tensors[key].float()
        if tuple(factor.shape) not in ((rows, 1), (1, columns)):
            raise ModuleFileError(
                folder / WEIGHTS,
                f"has a factor of shape {tuple(factor.shape)} for {path!r}; it must be {(rows, 1)} or {(1, columns)}",
            )
        bias = getattr(layer, "bias", None)
        if factor.shape[1] == 1 and bias is not None:
            other = name.removesuffix(_WEIGHT) + ".bias"
            factors[other], sizes[other] = factor.reshape(-1), tuple(bias.shape)
        factors[name], sizes[name] = factor.t() if is_transposed(layer) else factor, tuple(layer.weight.shape)
    return factors, sizes


def _changed(
    folder: Path, model: TransferModel, tensors: Mapping[str, Tensor], end: str, without_head: bool, also: str = "\0"
) -> Iterator[tuple[str, str, Any, str]]:
    """Yields for each changed layer its path at peft, the name of its weight in ours, the layer, and its tensor's key.

    Args:
        folder: for messages.
        model: the base model.
        tensors: of the folder.
        end: of the keys of the tensors that are looked for.
        without_head: whether to pass over tensors that are not of the model's body.
        also: part of the keys of tensors that belong to others, and are passed over.
    Raises:
        ModuleFileError: a tensor is of something else, or of a layer that the model does not have.
    """
    layers = block_linear_layers(model)
    names = {_path(name, model): name for name in layers}
    body = tuple(f"{_PREFIX}{_path(name, model)}." for name, _ in model.backbone.named_children())
    for key in sorted(tensors):
        if also in key:
            continue
        if not key.endswith(end):
            if key.startswith(body) and ".lora_" not in key and ".ia3_" not in key:
                raise ModuleFileError(
                    folder / WEIGHTS,
                    f"has the tensor {key!r} of the model's body, trained in full, which a delta of weights cannot be",
                )
            if not without_head or ".lora_" in key or ".ia3_" in key:
                raise ModuleFileError(
                    folder / WEIGHTS,
                    f"has the tensor {key!r}, which changes no linear layer; --without-head leaves out a head",
                )
            continue
        path = key.removeprefix(_PREFIX).removesuffix(end)
        if path not in names:
            raise ModuleFileError(
                folder / WEIGHTS,
                f"changes {path!r}, which is no linear layer of the blocks of "
                f"{type(whole_pretrained(model)).__name__}; give the model that peft had",
            )
        yield path, names[path], layers[names[path]], key


def _scale(settings: Mapping[str, Any], path: str, rank: int) -> float:
    """Returns the factor of a layer's product: alpha / rank, or alpha / sqrt(rank)."""
    alpha = float(settings.get("lora_alpha", 8))
    for pattern, own in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            alpha = float(own)
            break
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
