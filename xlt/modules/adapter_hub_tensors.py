"""The names of tensors in AdapterHub's format, and the tensors of `Adapter.to_tensors` to which they correspond.

    bert.encoder.layer.7.output.adapters.NAME.adapter_down.0.weight         after the feed-forward layer of block 7
    bert.encoder.layer.7.attention.output.adapters.NAME.adapter_up.bias     after its attention
    bert.invertible_adapters.NAME.F.0.weight                                coupling F (or G), linear layer 0 (or 2)

The prefix is that of the model ("roberta"), or there is none. In Llama the names are
`model.layers.7.output_adapters.adapters.NAME` and `attention_adapters`. Early versions of the library had longer words
for `adapters` (`_EARLY_NAMES`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from xlt.modules.adapter import Adapter
from xlt.modules.adapter_hub_settings import HubSettings, factor_for

INVERTIBLE = "invertible_adapters."
_SUBLAYERS = {  # model type -> paths in a block of the adapters after its attention and after its feed-forward layer
    "bert": ("attention.output", "output"),
    "roberta": ("attention.output", "output"),
    "xlm-roberta": ("attention.output", "output"),
    "deberta-v2": ("attention.output", "output"),
    "llama": ("attention_adapters", "output_adapters"),
}
_EARLY_NAMES = {
    "attention_text_task_adapters": "adapters",
    "attention_text_lang_adapters": "adapters",
    "layer_text_task_adapters": "adapters",
    "layer_text_lang_adapters": "adapters",
    "invertible_lang_adapters": "invertible_adapters",
}


class BlockPaths(Protocol):
    """The paths of one block of a model; `xlt.models.sublayers.find_blocks` returns such objects.

    This package must not import `xlt.models`, hence the protocol.
    """

    @property
    def path(self) -> str: ...
    @property
    def attention(self) -> str: ...
    @property
    def feed_forward(self) -> str: ...
    @property
    def norm(self) -> str | None: ...


@dataclass(frozen=True)
class HubTensor:
    """A tensor of the format: its name in `Adapter.to_tensors`, and its shape."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class HubModel:
    """The facts about a model that determine the names and shapes of tensors in the format.

    Attributes:
        model_type: the type in transformers, such as "xlm-roberta".
        prefix: prefix of the tensors of the model's body, such as "roberta".
        hidden_size: of its blocks.
        blocks: lowest first, at least one.
    """

    model_type: str
    prefix: str
    hidden_size: int
    blocks: Sequence[BlockPaths]

    @classmethod
    def of(cls, model: Any, blocks: Sequence[BlockPaths]) -> Self:
        """Collects the facts from a `TransferModel` and the blocks that `find_blocks` returned for it.

        Raises:
            ValueError: the model's type is not supported.
        """
        backbone = model.backbone
        kind = backbone.config.model_type
        if kind not in _SUBLAYERS:
            raise ValueError(f"models of type {kind!r} are not supported; supported: {', '.join(_SUBLAYERS)}")
        return cls(kind, backbone.base_model_prefix, model.hidden_size, blocks)

    def check_model(self, content: Mapping[str, Any], settings: HubSettings) -> None:
        """Refuses the `adapter_config.json` of an adapter for another model.

        Raises:
            ValueError: model type or hidden size differ, or `leave_out` lists a block that the model does not have, or
                all its blocks.
        """
        for key, own in (("model_type", self.model_type), ("hidden_size", self.hidden_size)):
            if content.get(key, own) != own:
                raise ValueError(f"is for {key}={content[key]!r}, the model in use has {own!r}")
        left, count = sorted(settings.leave_out), len(self.blocks)
        if left and left[-1] >= count:
            raise ValueError(f"has leave_out={left}, the model in use has blocks 0 to {count - 1}")
        if len(left) == count:
            raise ValueError(f"has leave_out={left}, which is every block of the model in use")

    def tensors(self, settings: HubSettings, name: str) -> dict[str, HubTensor]:
        """Returns name in the format, without prefix -> tensor, for an adapter called `name`."""
        hidden, tensors = self.hidden_size, dict[str, HubTensor]()
        for number, sublayer, path, _ in self._sites(settings.where, settings.leave_out):
            holder = f"{_inside(self.blocks[number])}.{_SUBLAYERS[self.model_type][sublayer]}"
            theirs, size = f"{holder}.adapters.{name}", settings.bottleneck_size(hidden, number)
            tensors |= _linear(f"{theirs}.adapter_down.0", f"adapter:{path}:down", hidden, size)
            tensors |= _linear(f"{theirs}.adapter_up", f"adapter:{path}:up", size, hidden)
        if settings.invertible_factor is not None:
            half = hidden // 2
            for coupling, ours, inputs in (("F", "first", hidden - half), ("G", "second", half)):
                theirs, size = f"{INVERTIBLE}{name}.{coupling}", settings.coupling_size(inputs)
                tensors |= _linear(f"{theirs}.0", f"invertible:{ours}.down", inputs, size)
                tensors |= _linear(f"{theirs}.2", f"invertible:{ours}.up", size, hidden - inputs)
        return tensors

    def layout(self, settings: HubSettings, output: str | None) -> dict[str, Any]:
        """Returns the layout for `Adapter.from_tensors`; `output` is the path of the model's output embeddings."""
        sites = {
            path: {"placement": placement, "activation": settings.activation}
            for _, _, path, placement in self._sites(settings.where, settings.leave_out)
        }
        ends = {"block": self.blocks[0].path, "output": output, "activation": settings.activation}
        return {"sites": sites, "invertible": None if settings.invertible_factor is None else ends}

    def settings_of(self, module: Adapter) -> HubSettings:
        """Finds the settings with which the library builds the networks of a module.

        Raises:
            ValueError: there are no such settings.
        """
        where = "both_sublayers" if "branch" in module.placements.values() else "feed_forward"
        left, sizes = dict(module.placements), dict[int, list[int]]()
        for number, _, path, placement in self._sites(where, frozenset()):
            if left.get(path) == placement:
                del left[path]
                sizes.setdefault(number, []).append(module.adapters[path].down.out_features)
        if left or not sizes:
            path, placement = next(iter(left.items()), ("all", "none"))
            raise ValueError(f"no setting of the format puts an adapter at {path} (placement {placement})")
        for number, block_sizes in sizes.items():
            if where == "both_sublayers" and (len(block_sizes) < 2 or block_sizes[0] != block_sizes[1]):
                raise ValueError(f"block {number} has bottlenecks {block_sizes}; the format has two of one size")
        networks, invertible_factor = list(module.adapters.values()), None
        if module.invertible is not None and module.ends is not None:
            if module.ends.block != self.blocks[0].path:
                raise ValueError(f"the invertible adapter is before {module.ends.block}, not {self.blocks[0].path}")
            couplings = (module.invertible.first, module.invertible.second)
            networks += couplings
            invertible_factor = factor_for([(net.down.in_features, net.down.out_features) for net in couplings])
        activations = sorted({network.activation for network in networks})
        if len(activations) > 1:
            raise ValueError(f"the networks' activations are {', '.join(activations)}; the format has one for all")
        factors = {
            str(number): factor_for([(self.hidden_size, block_sizes[0])]) for number, block_sizes in sizes.items()
        }
        all_equal = len(set(factors.values())) == 1
        leave_out = frozenset(range(len(self.blocks))) - sizes.keys()
        return HubSettings(
            where, activations[0], next(iter(factors.values())) if all_equal else factors, leave_out, invertible_factor
        )

    def plain(self, name: str) -> str:
        """Returns a tensor's name in the library's current form, without prefix."""
        parts = name.removeprefix(f"{self.prefix}.").split(".")
        return ".".join(_EARLY_NAMES.get(part, part) for part in parts)

    def block_of(self, name: str) -> int | None:
        """Returns the number of a tensor's block, even if the model has no such block; None outside blocks."""
        stem = re.escape(_inside(self.blocks[0]).removesuffix("0"))
        match = re.match(rf"{stem}(\d+)\.", name)
        return None if match is None else int(match[1])

    def _sites(self, where: str, leave_out: frozenset[int]) -> Iterator[tuple[int, int, str, str]]:
        """Yields block number, sub-layer (0 attention, 1 feed-forward layer), path and placement of each adapter."""
        for number, block in enumerate(self.blocks):
            if number in leave_out:
                continue
            if where == "both_sublayers":
                yield number, 0, block.attention, "branch"
                yield number, 1, block.feed_forward, "branch"
            elif block.norm is not None:
                yield number, 1, block.norm, "norm"
            else:
                yield number, 1, block.path, "sum"


def _inside(block: BlockPaths) -> str:
    return block.path.removeprefix("backbone.")


def _linear(theirs: str, ours: str, inputs: int, outputs: int) -> dict[str, HubTensor]:
    return {
        f"{theirs}.weight": HubTensor(f"{ours}.weight", (outputs, inputs)),
        f"{theirs}.bias": HubTensor(f"{ours}.bias", (outputs,)),
    }
