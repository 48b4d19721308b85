"""The files of a pre-trained model: its config, and whether they hold all tensors of the model that it describes."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xlt.errors import UsageError
from xlt.models.families import ENCODER, ENCODER_DECODER, TRANSLATOR, architecture

# Buffers that old versions of transformers saved, although every version computes them.
_COMPUTED = {"position_ids", "token_type_ids", "inv_freq", "masked_bias", "version"}
# Old names of the tensors of layer normalisation.
_OLD_NAMES = {"gamma": "weight", "beta": "bias"}
_NAMED = 3  # how many tensors a message names


@dataclass(frozen=True)
class Differences:
    """How the tensors of a checkpoint differ from those of the model.

    Attributes:
        missing: names, as the model has them, of tensors that the checkpoint lacks; tied tensors count if all of their
            names are missing.
        unexpected: names, as the checkpoint has them, of tensors that the model has no place for.
        reshaped: names of tensors that have another shape in the checkpoint.
    """

    missing: Collection[str] = ()
    unexpected: Collection[str] = ()
    reshaped: Collection[str] = ()


def load_config(path: str, revision: str | None = None, *, trust_remote_code: bool = False) -> Any:
    """Loads the transformers config of a pre-trained model.

    Args:
        path: local folder or hub id.
        revision: of the hub; None for the newest.
        trust_remote_code: whether Python code beside the config may be run.
    Raises:
        UsageError: it is missing or cannot be loaded, needs code that is not trusted, or names files that are no
            plain weights.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(expanded(path), revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:
        if (line := untrusted_code(path, error)) is not None:
            raise UsageError(line) from error
        reason = first_line(error)
        raise UsageError(f"model.path={path}: no local folder, and the hub does not give it: {reason}") from error
    if (Path(expanded(path)) / "adapter_config.json").is_file():
        raise UsageError(
            f"model.path={path}: the folder has a peft adapter (adapter_config.json), which transformers would add to "
            "the model; take a folder with the base model alone, or with the adapter merged into it"
        )
    if getattr(config, "transformers_weights", None) is not None:
        raise UsageError(
            f"model.path={path}: config.json says in transformers_weights that the weights are in "
            f"{config.transformers_weights}; call the file model.safetensors, and remove the key"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UsageError(
            f"model.path={path}: config.json says that the weights are quantised (quantization_config); take the "
            "model's whole weights, and model.quantise=nf4 if they are to be in 4 bits"
        )
    for name in ("_attn_implementation", "_experts_implementation"):
        if "/" in str(getattr(config, name, None)):
            raise UsageError(
                f"model.path={path}: config.json names code of the hub in {name.strip('_')}="
                f"{getattr(config, name)}, which is not run; remove it from config.json"
            )
    return config


def untrusted_code(path: str, error: Exception) -> str | None:
    """Returns a line if a model or its tokenizer cannot be loaded because it needs code of its own; otherwise None."""
    if "trust_remote_code" not in str(error):
        return None
    return (
        f"model.path={path}: this model needs Python code of its own (auto_map in its config), which is not run; if "
        "you trust its authors, give model.trust_remote_code=true"
    )


def tensor_shapes(path: str) -> dict[str, tuple[int, ...]] | None:
    """Reads names and shapes of a local checkpoint's tensors from the headers of its safetensors files.

    Args:
        path: folder or hub id.
    Returns:
        Name -> shape; None if there is no such folder, or no safetensors file that can be read in it.
    """
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    try:
        for file in _weight_files(path):
            with safe_open(str(file), framework="pt") as opened:
                names = opened.keys()
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return shapes


def tied_apart(pretrained: Any, path: str) -> list[str] | None:
    """Returns names of tensors that are one in the model, but of which a local checkpoint has several versions.

    transformers 4 would take one of them; transformers 5 keeps all, so that they are not one in its model.
    """
    from safetensors import safe_open

    shapes = tensor_shapes(path)
    tied: dict[int, list[str]] = {}
    for name, tensor in pretrained.state_dict(keep_vars=True).items():
        if shapes is not None and name in shapes:
            tied.setdefault(id(tensor), []).append(name)
    for names in tied.values():
        stored = []
        for file in _weight_files(path) if len(names) > 1 else []:
            with safe_open(str(file), framework="pt") as opened:
                stored += [opened.get_tensor(name) for name in set(opened.keys()) & set(names)]
        if any(not torch.equal(stored[0], other) for other in stored[1:]):
            return names
    return None


def _weight_files(path: str) -> list[Path]:
    """Returns the safetensors files of a local checkpoint, which may be absent."""
    folder = Path(expanded(path))
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return [folder / "model.safetensors"]
    return sorted({folder / name for name in json.loads(index.read_text("utf-8"))["weight_map"].values()})


def compare(pretrained: Any, shapes: Mapping[str, tuple[int, ...]]) -> Differences:
    """Compares names and shapes in a checkpoint with those of the model.

    It knows old names of layer normalisation and missing prefixes, but not what transformers converts for some
    families; what it finds may therefore be no fault, but where it finds nothing there is none.

    Args:
        pretrained: transformers model, which may be on the meta device.
        shapes: name -> shape, as the checkpoint has them.
    """
    tensors = pretrained.state_dict(keep_vars=True)
    prefix = f"{pretrained.base_model_prefix}."
    there: dict[str, tuple[int, ...]] = {}
    unexpected = []
    for name, shape in shapes.items():
        parent, _, last = name.rpartition(".")
        renamed = f"{parent}.{_OLD_NAMES.get(last, last)}" if parent else name
        names = [other for n in (name, renamed) for other in (n, f"{prefix}{n}", n.removeprefix(prefix))]
        known = next((other for other in names if other in tensors), None)
        if known is None:
            unexpected.append(name)
        else:
            there[known] = shape
    loaded = {id(tensors[name]) for name in there}
    return Differences(
        [name for name, tensor in tensors.items() if id(tensor) not in loaded],
        unexpected,
        [name for name, shape in there.items() if tuple(tensors[name].shape) != shape],
    )


def faults(pretrained: Any, differences: Differences, *, needs_head: bool) -> list[str]:
    """Returns what is wrong with a checkpoint whose tensors differ from the model's; parts of a sentence.

    Tensors outside the body are no fault, because a run can do without them or draws them from its seed. Nor is a
    missing decoder where only the encoder is used.

    Args:
        pretrained: transformers model, which may be on the meta device.
        differences: between it and the checkpoint.
        needs_head: whether the task uses the language-model head.
    """
    body = _prefix_of_body(pretrained)
    unused = ("decoder.",) if decoder_is_unused(pretrained.config, needs_head=needs_head) else ()
    missing = [name for name in differences.missing if name.startswith(body) and not name.startswith(unused)]
    inside = {name for name, _ in pretrained.base_model.named_children()}
    buffers = {name for name, _ in pretrained.base_model.named_buffers()}
    unexpected = [
        name
        for name, place in (
            (name, name.removeprefix(f"{pretrained.base_model_prefix}.")) for name in differences.unexpected
        )
        if place.split(".")[0] in inside and place not in buffers and place.split(".")[-1] not in _COMPUTED
    ]
    parts = [f"lacks {named(missing)}"] if missing else []
    parts += [f"has {named(unexpected)}, for which the model of config.json has no place"] if unexpected else []
    parts += (
        [f"has {named(differences.reshaped)} in another shape than config.json says"] if differences.reshaped else []
    )
    return parts


def missing_of_head(pretrained: Any, differences: Differences) -> tuple[list[str], bool]:
    """Returns which tensors of the language-model head a checkpoint lacks, and whether it has no part of the head."""
    body = _prefix_of_body(pretrained)
    missing = [name for name in differences.missing if not name.startswith(body)]
    return missing, bool(missing) and {name for name, _ in own_head_parameters(pretrained)} <= set(missing)


def own_head_parameters(pretrained: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields name and tensor of each parameter outside the body that is not tied to one of the body."""
    body = {id(parameter) for parameter in pretrained.base_model.parameters()}
    for name, parameter in pretrained.named_parameters():
        if id(parameter) not in body:
            yield name, parameter


@torch.no_grad()
def draw_head(pretrained: Any, seed: int) -> None:
    """Gives the language-model head random values, as BERT initialises them, but from a seed.

    Weights come from N(0, initializer_range), biases are 0, and scales of layer normalisation are 1.
    """
    spread = float(getattr(pretrained.config, "initializer_range", None) or 0.02)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(own_head_parameters(pretrained)):
        if parameter.dim() > 1:
            values = torch.empty(parameter.shape, dtype=torch.float32).normal_(0, spread, generator=generator)
            parameter.copy_(values)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)


def check_finite(pretrained: nn.Module, path: str) -> None:
    """Refuses a model in which a weight is NaN or infinite.

    Raises:
        UsageError: there is one; the message names its tensor.
    """
    for name, parameter in pretrained.named_parameters():
        # A sum is NaN or infinite if one of its values is; it is several times faster than a look at each value.
        if not math.isfinite(parameter.detach().sum(dtype=torch.float64)):
            raise UsageError(f"model.path={path}: the tensor {name} has NaN or infinite values; copy the model again")


def decoder_is_unused(config: Any, *, needs_head: bool) -> bool:
    """Returns whether only the encoder of an encoder-decoder is used; a translator is always whole."""
    return architecture(config) == ENCODER_DECODER and config.model_type != TRANSLATOR and not needs_head


def may_draw_head(config: Any) -> bool:
    """Returns whether a run may draw the language-model head if the checkpoint has none; only encoders' are drawn."""
    return architecture(config) == ENCODER


def expanded(path: str) -> str:
    """Returns a path with the home folder in place of `~`, or a hub id as it is."""
    return str(Path(path).expanduser()) if path.startswith("~") else path


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message that is not empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _prefix_of_body(pretrained: Any) -> str:
    body = pretrained.base_model
    path = next(path for path, module in pretrained.named_modules() if module is body)
    return f"{path}." if path else ""


def named(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_NAMED])
    more = len(names) - _NAMED
    return f"the tensor{'s' if len(names) > 1 else ''} {shown}{f' and {more} more' if more > 0 else ''}"
