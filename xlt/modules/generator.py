"""MAD-G's generator (thesis §3.3), which computes adapters from typological vectors, even for languages new to it."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from xlt.languages import code_without_script
from xlt.modules.adapter import Adapter, BottleneckAdapter
from xlt.modules.artefact import ModuleArtefact, ModuleHeader, Undo, check_values


class AdapterGenerator(nn.Module):
    """The network that computes the projections of every block's adapter from a language's vector t.

    MAD-G (thesis Eq. 3.1) computes all blocks at once: theta = W V t, where W is (2 h m n, d_l). MAD-G-LS (Eq. 3.2)
    computes the projections of block b as W times the concatenation of V t and lambda_b, where W is (2 h m, d_l + d_b).
    V is (d_l, features). There are no biases.

    Args:
        features: number of entries of a vector.
        blocks: number of adapters to generate, n.
        hidden_size, bottleneck_size: of the adapters, h and m.
        language_size: size of a language embedding V t, d_l.
        layer_size: size of a layer embedding lambda_b, d_b; None for MAD-G without layer embeddings.
    """

    def __init__(
        self,
        features: int,
        blocks: int,
        hidden_size: int,
        bottleneck_size: int,
        language_size: int,
        layer_size: int | None,
    ) -> None:
        super().__init__()
        self.blocks, self.hidden_size, self.bottleneck_size = blocks, hidden_size, bottleneck_size
        block_entries = 2 * hidden_size * bottleneck_size
        rows, columns = block_entries * blocks, language_size
        if layer_size is not None:
            rows, columns = block_entries, language_size + layer_size
        self.embed = nn.Parameter(torch.empty(language_size, features))
        self.weight = nn.Parameter(torch.empty(rows, columns))
        self.layers = None if layer_size is None else nn.Parameter(torch.empty(blocks, layer_size))

    @torch.no_grad()
    def draw(self, generator: torch.Generator, ones: float) -> None:
        """Draws the initial weights.

        Embeddings get about unit variance, down-projections the distribution N(0, 0.02^2); up-projections become zero.

        Args:
            generator: the run's generator, on the CPU.
            ones: mean number of features that are 1 in a language's vector.
        """

        def normal(parameter: Tensor, deviation: float) -> None:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)

        normal(self.embed, max(ones, 1.0) ** -0.5)
        if self.layers is not None:
            normal(self.layers, 1.0)
        normal(self.weight, 0.02 * self.weight.shape[1] ** -0.5)
        half = self.hidden_size * self.bottleneck_size
        self.weight.view(-1, 2, half, self.weight.shape[1])[:, 1] = 0

    def forward(self, vector: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Computes from a vector (features,) for each block a down-projection (m, h) and an up-projection (h, m)."""
        language = self.embed @ vector.to(self.embed)
        if self.layers is None:
            whole = (self.weight @ language).view(self.blocks, -1)
        else:
            whole = torch.cat((language.expand(self.blocks, -1), self.layers), 1) @ self.weight.T
        h, m = self.hidden_size, self.bottleneck_size
        return [(one[: h * m].view(m, h), one[h * m :].view(h, m)) for one in whole]

    @torch.no_grad()
    def importance(self) -> Tensor:
        """Computes the norms of the columns of W V for each block (thesis §3.5.4): how much each feature matters.

        If blocks share W, they differ by their layer embeddings only, and all rows are equal.

        Returns:
            (blocks, features).
        """
        language_size = self.embed.shape[0]
        parts = self.weight[:, :language_size].reshape(-1, 2 * self.hidden_size * self.bottleneck_size, language_size)
        # |W v|^2 = v^T (W^T W) v needs no matrix W V.
        norms = [((part.T @ part @ self.embed) * self.embed).sum(0).clamp(min=0).sqrt() for part in parts]
        return torch.stack(norms).expand(self.blocks, -1)


class Generator(ModuleArtefact):
    """A module that generates language adapters: a trained generator and the vectors of its languages.

    It cannot be applied itself; `for_language` returns an adapter that can.

    Args:
        header: of kind "generator".
        network: the trained generator.
        sites: path -> placement of each block's adapter, lowest block first.
        activation: of the adapters.
        features: names of the columns of `table`.
        codes: ISO 639-3 codes of the rows of `table`.
        table: (languages, features) bool typological vectors.
    Raises:
        ValueError: the header's kind is wrong, a value is not finite, or the sizes of table, network and sites do not
            fit together.
    """

    kind: ClassVar[str] = "generator"
    tensors: dict[str, Tensor] = {}  # noqa: RUF012 - a generator has no head

    def __init__(
        self,
        header: ModuleHeader,
        network: AdapterGenerator,
        sites: Mapping[str, str],
        activation: str,
        features: Sequence[str],
        codes: Sequence[str],
        table: Tensor,
    ) -> None:
        if header.kind != self.kind:
            raise ValueError(f"kind={header.kind!r}: the header of a Generator must have kind {self.kind!r}")
        if table.shape != (len(codes), len(features)) or network.embed.shape[1] != len(features):
            raise ValueError(
                f"the table has shape {tuple(table.shape)}, but there are {len(codes)} languages and {len(features)} "
                f"features, and the network takes {network.embed.shape[1]}: the table must be languages by features"
            )
        check_values(network.state_dict())
        if len(sites) != network.blocks:
            raise ValueError(f"there are {len(sites)} sites for {network.blocks} adapters: the numbers must be equal")
        self.header, self.network, self.sites, self.activation = (
            header,
            network.requires_grad_(False),
            dict(sites),
            activation,
        )
        self.features, self.codes, self.table = list(features), list(codes), table.bool()

    def __repr__(self) -> str:
        return f"<{self.header}: {self.network.blocks} adapters for any of {len(self.codes)} languages>"

    def for_language(self, language: str) -> Adapter:
        """Generates the adapter of a language, which is an ordinary module.

        Args:
            language: ISO 639-3 code, if need be with a script. A vector does not depend on the script, so that the
                generator makes the adapter of `ace_Arab` from the vector of `ace`, unless it is itself the module of
                one language.
        Raises:
            ValueError: the generator has no vector of the language, or it is the module of another language.
        """
        code = language
        if language not in self.codes and self.header.language is None:
            code = code_without_script(language)
        if code not in self.codes:
            raise ValueError(
                f"{self.header} has no vector of {language}; it has vectors of {len(self.codes)} languages"
            )
        vector = self.table[self.codes.index(code)].float()
        adapters = {}
        with torch.no_grad():
            for path, (down, up) in zip(self.sites, self.network(vector), strict=True):
                adapter = BottleneckAdapter(down.shape[1], down.shape[0], self.activation).to(down.dtype)
                for parameter, value in zip(adapter.parameters(), (down, 0.0, up, 0.0), strict=True):
                    parameter.copy_(torch.as_tensor(value))
                adapters[path] = adapter
        header = ModuleHeader(
            kind=Adapter.kind,
            method=self.header.method,
            base_model=self.header.base_model,
            base_hash=self.header.base_hash,
            language=language,
            fingerprint=self.header.fingerprint,
            provenance={**self.header.provenance, "generated": True},
        )
        return Adapter(header, adapters, self.sites)

    def check(self, model: nn.Module) -> None:
        raise ValueError(
            f"{self.header} cannot be applied to a model: apply the module that for_language(CODE) returns"
        )

    def write_into(self, model: nn.Module) -> Undo:
        self.check(model)
        raise AssertionError

    def to_tensors(self, value_dtype: torch.dtype | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns layout and tensors.

        The layout has sites, activation, hidden size, feature names and language codes. The tensors are `embed`,
        `weight`, `layers`, and `table` with eight features per byte.
        """
        own = {name: tensor.cpu() for name, tensor in self.network.state_dict().items()}
        tensors = {name: tensor if value_dtype is None else tensor.to(value_dtype) for name, tensor in own.items()}
        layout = {
            "sites": self.sites,
            "activation": self.activation,
            "hidden_size": self.network.hidden_size,
            "features": self.features,
            "codes": self.codes,
        }
        return layout, {**tensors, "table": _pack_bits(self.table)}

    @classmethod
    def from_tensors(cls, header: ModuleHeader, layout: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        check_values({name: tensor for name, tensor in tensors.items() if name != "table"})
        weight, embed, layers = tensors["weight"].float(), tensors["embed"].float(), tensors.get("layers")
        features, sites, h = layout["features"], layout["sites"], int(layout["hidden_size"])
        blocks = 1 if layers is not None else len(sites)
        size = None if layers is None else layers.shape[1]
        network = AdapterGenerator(
            len(features), len(sites), h, weight.shape[0] // (2 * h * blocks), embed.shape[0], size
        )
        network.load_state_dict(
            {"weight": weight, "embed": embed} | ({} if layers is None else {"layers": layers.float()})
        )
        table = _unpack_bits(tensors["table"], len(features))
        return cls(header, network, sites, layout["activation"], features, layout["codes"], table)


def _pack_bits(table: Tensor) -> Tensor:
    """Packs (languages, features) bool into (languages, bytes) uint8, eight features per byte, the first lowest."""
    padded = nn.functional.pad(table.to(torch.uint8), (0, -table.shape[1] % 8)).view(len(table), -1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8)).sum(2).to(torch.uint8)


def _unpack_bits(packed: Tensor, features: int) -> Tensor:
    if packed.dtype != torch.uint8 or packed.dim() != 2 or packed.shape[1] != -(-features // 8):
        raise ValueError(f"the table has dtype {packed.dtype} and shape {tuple(packed.shape)} for {features} features")
    bits = (packed.unsqueeze(2) >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.view(len(packed), -1)[:, :features].bool()
