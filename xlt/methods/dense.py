"""Training of whole tensors: full fine-tuning, BitFit and the dense phase of LT-SFT are built on it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from xlt.methods.method import Method, ModuleReport, head_parameters, trained_head
from xlt.models.transfer import TransferModel, layer_norm_parameters
from xlt.modules import Entries, ModuleArtefact, ModuleHeader, SparseDelta

_BLOCK_ENTRIES = 2**18  # entries of a block that fits into the cache: 1 MiB of each tensor in float32


def tunable_names(model: TransferModel, *, adapts_language: bool, freeze_layer_norm: bool) -> list[str]:
    """Returns the names of the pre-trained tensors that a method may change; the task head is not among them.

    The language-model head is among them if the model has one, that is, if the task uses it. Tied tensors are listed
    under one name. For a language module the output embeddings are untied and fixed. Were they tied, most of the K
    entries that change most would be in the embeddings, which harms transfer (thesis §4.4.2).

    Args:
        model: its embeddings are untied in place for a language module.
        adapts_language: whether a language module is trained, or else a task module.
        freeze_layer_norm: whether to leave out layer normalisation (thesis §4.4.2).
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
    """Tensors of a model that are trained in full, with a copy of their starting values.

    Args:
        model: all its parameters except `names` and the task head are frozen.
        names: of the tensors to train.
        keep_start: whether to copy the present values, which the difference and the L1 term need.
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

        It reads three numbers and writes one per entry. On a CPU it works on blocks that fit into the cache. Without
        blocks, difference and sign would go to memory and back, into new pages at every step, and take 2.5 to 5 times
        as long.
        """
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            block = _BLOCK_ENTRIES if parameter.device.type == "cpu" else parameter.numel()
            flat = (parameter.detach().view(-1), self.start[name].view(-1), parameter.grad.view(-1))
            buffer = torch.empty_like(flat[0][:block])
            for values, start, gradient in zip(*(tensor.split(block) for tensor in flat), strict=True):
                change = torch.sub(values, start, out=buffer[: len(values)])
                gradient.add_(change.sign_(), alpha=scale)

    def restore(self) -> None:
        """Puts the starting values back."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.start[name])

    def entries(self) -> dict[str, Entries]:
        """Returns name -> difference from the starting values at every entry, in float32 or wider, on the CPU."""
        entries = {}
        for name, parameter in self.parameters.items():
            wide = torch.promote_types(parameter.dtype, torch.float32)
            difference = parameter.detach().to(wide) - self.start[name].to(wide)
            entries[name] = Entries(None, difference.cpu().view(-1), parameter.shape)
        return entries


class DenseMethod(Method):
    """A method of one phase that trains whole tensors; its `attach` calls `train_tensors` with their names."""

    def train_tensors(self, model: TransferModel, names: Iterable[str]) -> None:
        """Makes these tensors and the task head trainable, and freezes all others."""
        self._dense = DenseTensors(model, names, keep_start=True)
        self._head = head_parameters(model)
        self._total = model.pretrained_parameters

    def trainable(self) -> dict[str, nn.Parameter]:
        return {**self._dense.parameters, **self._head}

    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        return SparseDelta(header, self._dense.entries(), trained_head(model))

    def report(self) -> ModuleReport:
        tuned = sum(parameter.numel() for parameter in self._dense.parameters.values())
        return {"tuned_entries": tuned, "density": tuned / self._total}
