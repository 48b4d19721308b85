"""Tuning tensors in full: what full fine-tuning, BitFit and LT-SFT's dense phase have in common."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from xlt.models.transfer import TransferModel, layer_norm_parameters
from xlt.modules import Entries

_CACHED = 2**18  # entries of a block; in float32 1 MiB of each tensor


def tunable_names(model: TransferModel, *, adapts_language: bool, freeze_layer_norm: bool) -> list[str]:
    """Names of the pre-trained tensors that a method may change, the task head aside.

    The language-model head may change where the model has one, that is where the task uses it. Tied tensors appear
    under one name. For a language module the output embeddings are untied and fixed: tied, most of the K entries that
    change most lie in the embeddings, which harms transfer (thesis §4.4.2).

    Args:
        model: untied in place for a language module.
        adapts_language: language module or task module.
        freeze_layer_norm: leave out layer normalisation (thesis §4.4.2).
    """
    if adapts_language:
        model.untie_embeddings()
        for layer in model.output_embeddings:
            layer.weight.requires_grad_(False)
    fixed = layer_norm_parameters(model) if freeze_layer_norm else set()
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name not in fixed and name.startswith(("backbone.", "lm_head."))
    ]


class DenseTensors:
    """Tensors of a model tuned as they are, with a copy of what they were.

    Args:
        model: all parameters outside `names` and the head are frozen.
        names: tensors to tune.
        keep_start: keep their present values, for a difference later and for the L1 term.
    """

    def __init__(self, model: TransferModel, names: Iterable[str], *, keep_start: bool) -> None:
        parameters = dict(model.named_parameters())
        self.parameters: dict[str, nn.Parameter] = {name: parameters[name] for name in names}
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in self.parameters or name.startswith("head."))
        self.start: dict[str, Tensor] = (
            {name: parameter.detach().clone() for name, parameter in self.parameters.items()} if keep_start else {}
        )

    def add_l1(self, scale: float) -> None:
        """Adds the gradient of `scale * sum |theta - theta0|` (thesis §4.3.1, with scale = lambda / N).

        Reads three numbers and writes one for each entry. On a CPU it goes by blocks that fit its cache: whole, the
        difference and its sign would travel to memory and back, in pages new at every step (2.5 to 5 times the time).
        """
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            block = _CACHED if parameter.device.type == "cpu" else parameter.numel()
            flat = (parameter.detach().view(-1), self.start[name].view(-1), parameter.grad.view(-1))
            room = torch.empty_like(flat[0][:block])
            for values, start, gradient in zip(*(tensor.split(block) for tensor in flat), strict=True):
                away = torch.sub(values, start, out=room[: len(values)])
                gradient.add_(away.sign_(), alpha=scale)

    def restore(self) -> None:
        """Puts the starting values back."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.start[name])

    def entries(self) -> dict[str, Entries]:
        """The difference from the start, every entry of every tensor, at least float32, on the CPU."""
        entries = {}
        for name, parameter in self.parameters.items():
            wide = torch.promote_types(parameter.dtype, torch.float32)
            difference = parameter.detach().to(wide) - self.start[name].to(wide)
            entries[name] = Entries(None, difference.cpu().view(-1), parameter.shape)
        return entries
