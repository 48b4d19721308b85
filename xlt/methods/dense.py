"""Training of whole tensors: full fine-tuning, BitFit and the dense phase of LT-SFT are built on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

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

    The optimiser updates the tensors themselves, or for tensors in half precision a float32 copy, the master. Most
    updates are smaller than half the distance between two bfloat16 numbers: added to such a number, they would be
    lost. A master costs 4 bytes for each entry, and as much for its gradient.

    Args:
        model: all its parameters except `names` and the task head are frozen.
        names: of the tensors to train.
        keep_start: whether to copy the present values, which the difference and the L1 term need.

    Attributes:
        trained: name -> what the optimiser updates: the model's tensor, or its master.
        start: name -> starting values, in the dtype of `trained`; empty without `keep_start`.
    """

    def __init__(self, model: TransferModel, names: Iterable[str], *, keep_start: bool) -> None:
        parameters = dict(model.named_parameters())
        self._tensors: dict[str, nn.Parameter] = {name: parameters[name] for name in names}
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in self._tensors or name.startswith("head."))
        self.trained = {name: _master(parameter) for name, parameter in self._tensors.items()}
        self.start: dict[str, Tensor] = (
            {name: parameter.detach().clone() for name, parameter in self.trained.items()} if keep_start else {}
        )
        self._hooks = [
            tensor.register_post_accumulate_grad_hook(self._give_gradient_to(self.trained[name]))
            for name, tensor in self._tensors.items()
            if self.trained[name] is not tensor
        ]

    @property
    def has_masters(self) -> bool:
        """Whether a tensor of the model is in half precision, so that `write` is needed before it is used."""
        return bool(self._hooks)

    def _give_gradient_to(self, master: nn.Parameter) -> Callable[[Tensor], None]:
        def give(tensor: Tensor) -> None:
            """Adds a gradient to the master's, in float32, and frees it."""
            assert tensor.grad is not None
            gradient = tensor.grad.to(master.dtype)
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            tensor.grad = None

        return give

    def write(self) -> None:
        """Writes the masters, rounded, into the model's tensors."""
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                if self.trained[name] is not tensor:
                    tensor.copy_(self.trained[name])

    def add_l1(self, scale: float) -> None:
        """Adds the gradient of `scale * sum |theta - theta0|` (thesis §4.3.1, with scale = lambda / N).

        It reads three numbers and writes one per entry. On a CPU it works on blocks that fit into the cache. Without
        blocks, difference and sign would go to memory and back, into new pages at every step, and take 2.5 to 5 times
        as long.
        """
        for name, parameter in self.trained.items():
            if parameter.grad is None:
                continue
            block = _BLOCK_ENTRIES if parameter.device.type == "cpu" else parameter.numel()
            flat = (parameter.detach().view(-1), self.start[name].view(-1), parameter.grad.view(-1))
            buffer = torch.empty_like(flat[0][:block])
            for values, start, gradient in zip(*(tensor.split(block) for tensor in flat), strict=True):
                change = torch.sub(values, start, out=buffer[: len(values)])
                gradient.add_(change.sign_(), alpha=scale)

    def restore(self) -> None:
        """Puts the starting values back into the model; the masters get no gradients from now on."""
        for hook in self._hooks:
            hook.remove()
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(self.start[name])

    def entries(self) -> dict[str, Entries]:
        """Returns name -> difference from the starting values at every entry, in float32 or wider, on the CPU."""
        return {
            name: Entries(None, (parameter.detach() - self.start[name]).cpu().view(-1), parameter.shape)
            for name, parameter in self.trained.items()
        }


def _master(parameter: nn.Parameter) -> nn.Parameter:
    """Returns a float32 copy of a parameter in half precision; another parameter is returned itself."""
    wide = torch.promote_types(parameter.dtype, torch.float32)
    return parameter if parameter.dtype == wide else nn.Parameter(parameter.detach().to(wide))


class DenseMethod(Method):
    """A method of one phase that trains whole tensors; its `attach` calls `train_tensors` with their names."""

    def train_tensors(self, model: TransferModel, names: Iterable[str]) -> None:
        """Makes these tensors and the task head trainable, and freezes all others."""
        self._dense = DenseTensors(model, names, keep_start=True)
        self._head = head_parameters(model)
        self._total = model.pretrained_parameters

    def trainable(self) -> dict[str, nn.Parameter]:
        return {**self._dense.trained, **self._head}

    def write(self, base: Mapping[str, Tensor] | None = None) -> None:
        self._dense.write()

    def written_entries(self) -> Mapping[str, Tensor] | None:
        return dense_written_entries(self._dense)

    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        return SparseDelta(header, self._dense.entries(), trained_head(model))

    def report(self) -> ModuleReport:
        tuned = sum(parameter.numel() for parameter in self._dense.trained.values())
        return {"tuned_entries": tuned, "density": tuned / self._total}


def dense_written_entries(dense: DenseTensors) -> Mapping[str, Tensor] | None:
    """Returns what `Method.written_entries` does in a dense phase.

    None if there are masters: `write` then writes whole tensors, and a language's module has to be written over them.
    """
    return None if dense.has_masters else {}
