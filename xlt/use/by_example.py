"""Language modules of which each example of a batch uses its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from xlt.models.sublayers import layers_that_read_no_examples
from xlt.models.transfer import TransferModel, block_linear_layers, is_transposed
from xlt.modules.adapter import Adapter
from xlt.modules.artefact import ModuleArtefact, Undo
from xlt.modules.insertion import change_input, insert
from xlt.modules.low_rank import LowRankDelta

Network: TypeAlias = Callable[[Tensor], Tensor]
_SHOWN = 5


def layers_for_examples(model: TransferModel) -> dict[str, nn.Module]:
    """Returns name of the weight -> linear layer, for those layers of the blocks that read the examples of a batch."""
    others = layers_that_read_no_examples(model)
    return {name: layer for name, layer in block_linear_layers(model).items() if name not in others}


def by_example_fault(module: ModuleArtefact, layers: Collection[str]) -> str | None:
    """Returns why the examples of a batch cannot each have a module of this kind; None if they can.

    Adapters and low-rank deltas can: they are computed beside the layers of the model. Modules that are written into
    weights cannot, because a batch has one weight for all of its examples.

    Args:
        module: of a language.
        layers: names as `layers_for_examples` returns them.
    """
    if not isinstance(module, Adapter | LowRankDelta):
        return "it is written into the weights, which are the same for all examples of a batch"
    if module.tensors:
        return f"it replaces whole tensors, such as {next(iter(module.tensors))}"
    if isinstance(module, LowRankDelta):
        other = next((name for name in module.factors if name not in layers), None)
        if other is not None:
            return f"it changes {other}, which is not the weight of a linear layer that reads the examples"
    return None


class LanguageModulesByExample:
    """The modules of several languages in one model, of which each example of a batch uses that of its language.

    What a module computes for an example is what it computes alone, up to the rounding of products of other sizes. The
    examples of one language go through their networks together, so a batch costs as many small products more as it has
    languages. A `ModuleStack` applies it as it applies one module.

    Args:
        modules: language -> module. None of them is copied.
        layers: of the model, as `layers_for_examples` returns them.
    Raises:
        ValueError: a module cannot be the module of single examples, or the adapters of two languages at one place have
            different placements.
    """

    def __init__(self, modules: Mapping[str, ModuleArtefact], layers: Mapping[str, nn.Module]) -> None:
        for language, module in modules.items():
            if (fault := by_example_fault(module, layers)) is not None:
                raise ValueError(f"{module.header} cannot be the module of the examples in {language}: {fault}")
        placements: dict[str, str] = {}
        for module in modules.values():
            for path, placement in module.placements.items() if isinstance(module, Adapter) else ():
                if placements.setdefault(path, placement) != placement:
                    raise ValueError(f"the adapters at {path} have the placements {placements[path]} and {placement}")
        self._modules, self._layers = dict(modules), layers
        low_rank = [language for language, module in modules.items() if isinstance(module, LowRankDelta)]
        self._places = {language: number for number, language in enumerate(low_rank)}
        self._of_thread = threading.local()  # several threads compute a batch each

    @property
    def header(self) -> str:
        """What messages call it."""
        names = ", ".join(list(self._modules)[:_SHOWN])
        return f"modules of {len(self._modules)} languages ({names}{', ...' if len(self._modules) > _SHOWN else ''})"

    def examples(self, languages: Sequence[str]) -> None:
        """Sets the language of each example, for the following forward passes of this thread.

        Args:
            languages: of the rows of the model's inputs, in their order.
        """
        rows: dict[str, list[int]] = {}
        for number, language in enumerate(languages):
            rows.setdefault(language, []).append(number)
        self._of_thread.rows = {language: torch.tensor(numbers) for language, numbers in rows.items()}
        self._of_thread.places = torch.tensor([self._places.get(one, len(self._places)) for one in languages])
        self._of_thread.count = len(languages)

    def check(self, model: nn.Module) -> None:
        """Checks that each module fits the model.

        Raises:
            ValueError: one does not, or the model has a language-model head. Its inputs are not those of single
                examples, so the inverse of an invertible adapter could not be used there.
        """
        if getattr(model, "lm_head", None) is not None:
            raise ValueError(f"{self.header} do not fit the model: it has a language-model head")
        for module in self._modules.values():
            module.check(model)

    def write_into(self, model: nn.Module) -> Undo:
        """Adds the modules to the model, which must not run before `examples` was called.

        Returns:
            A function that removes them.
        """
        assert isinstance(model, TransferModel)
        removals = [*self._insert_adapters(model), *self._add_low_rank(model)]

        def undo() -> None:
            for remove in removals:
                remove()

        return undo

    def write_over(self, model: nn.Module, undo: Undo) -> None:
        """Returns None: these modules do not replace another in one pass."""

    def _insert_adapters(self, model: TransferModel) -> list[Undo]:
        layers = dict(model.named_modules())
        networks: dict[tuple[str, str], dict[str, Network]] = {}
        invertible: dict[str, dict[str, Network]] = {}
        for language, module in self._modules.items():
            if not isinstance(module, Adapter):
                continue
            for path, adapter in module.adapters.items():
                networks.setdefault((path, module.placements[path]), {})[language] = adapter.to(model.device)
            if module.invertible is not None and module.ends is not None:
                invertible.setdefault(module.ends.block, {})[language] = module.invertible.to(model.device).forward
        removals = [
            insert(layers[path], placement, self._terms(of_language), below=True)
            for (path, placement), of_language in networks.items()
        ]
        for block, of_block in invertible.items():
            removals.append(change_input(layers[block], self._changes(of_block)))
        return removals

    def _add_low_rank(self, model: TransferModel) -> list[Undo]:
        """Adds the products of low-rank deltas to the outputs of their layers.

        The factors of all languages are kept in one tensor for each weight, with zeros where a language has none or a
        smaller rank, and those of a batch's examples are gathered from it, so that there is one batched product.
        """
        modules = {code: module for code, module in self._modules.items() if isinstance(module, LowRankDelta)}

        def added(weight: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
            first, second = (factor.to(model.device) for factor in self._stacked(weight, modules))

            def hook(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
                x = arguments[0]
                self._check_rows(x)
                at: Tensor = self._of_thread.places
                wide = x if torch.is_autocast_enabled(x.device.type) else x.to(first.dtype)
                inner = torch.bmm(wide.reshape(len(x), -1, x.shape[-1]), first[at])
                flat = output.view(len(x), -1, output.shape[-1]).to(inner.dtype)
                if torch.is_grad_enabled():
                    total = torch.baddbmm(flat, inner, second[at])
                else:  # in place, because a new tensor would take longer than the product
                    total = flat.baddbmm_(inner, second[at])
                return total.view(output.shape).to(output.dtype)

            return hook

        weights = dict.fromkeys(weight for module in modules.values() for weight in module.factors)
        return [self._layers[weight].register_forward_hook(added(weight)).remove for weight in weights]

    def _stacked(self, weight: str, modules: Mapping[str, LowRankDelta]) -> tuple[Tensor, Tensor]:
        """Returns the factors of a weight, (languages + 1, in, rank) and (languages + 1, rank, out).

        The product of an input x with both is that with the transpose of the delta. The last ones are zero.
        """
        pairs: list[tuple[Tensor, Tensor] | None] = []
        for module in modules.values():
            a, b = module.factors.get(weight, (None, None))
            if a is None or b is None:
                pairs.append(None)
            elif is_transposed(self._layers[weight]):
                pairs.append((b, module.scale * a))
            else:
                pairs.append((a.t(), module.scale * b.t()))
        there = [pair for pair in pairs if pair is not None]
        dtype = torch.promote_types(there[0][0].dtype, torch.float32)
        rank = max(first.shape[1] for first, _ in there)
        (inputs, _), (_, outputs) = there[0][0].shape, there[0][1].shape
        firsts = torch.zeros(len(pairs) + 1, inputs, rank, dtype=dtype)
        seconds = torch.zeros(len(pairs) + 1, rank, outputs, dtype=dtype)
        for number, pair in enumerate(pairs):
            if pair is not None:
                own = pair[0].shape[1]
                firsts[number, :, :own], seconds[number, :own] = pair
        return firsts, seconds

    def _terms(self, networks: Mapping[str, Network]) -> Network:
        """Returns a network that gives each example the term of its language, and zero if the language has none."""

        def term(hidden: Tensor) -> Tensor:
            rows = self._rows(hidden)
            parts = {language: networks[language](hidden[at]) for language, at in rows.items() if language in networks}
            if not parts:
                return hidden.new_zeros(())
            first = next(iter(parts.values()))
            result = first.new_zeros(*hidden.shape[:-1], first.shape[-1])
            for language, part in parts.items():
                result[rows[language]] = part
            return result

        return term

    def _changes(self, networks: Mapping[str, Network]) -> Network:
        """Returns a network that changes each example by the network of its language, if the language has one."""

        def changed(hidden: Tensor) -> Tensor:
            result = hidden.clone()
            for language, at in self._rows(hidden).items():
                if language in networks:
                    result[at] = networks[language](hidden[at])
            return result

        return changed

    def _rows(self, hidden: Tensor) -> dict[str, Tensor]:
        """Returns language -> numbers of its examples."""
        self._check_rows(hidden)
        rows: dict[str, Tensor] = self._of_thread.rows
        return rows

    def _check_rows(self, hidden: Tensor) -> None:
        """Refuses an input with more or fewer rows than there are examples.

        Raises:
            ValueError: see above.
        """
        count = getattr(self._of_thread, "count", 0)
        if count != len(hidden):
            raise ValueError(
                f"a layer's input has {len(hidden)} rows, but the languages of {count} examples are known: the model "
                "must be called with one row for each example"
            )
