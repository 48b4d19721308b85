"""A small BERT-like model as our models are built, sparse deltas for it, and an adapter of AdapterHub."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from tests.xlt.modules.adapter_hub_files import GOLDEN
from xlt.modules import Entries, ModuleHeader, SparseDelta

LARGE = "backbone.embeddings.word_embeddings.weight"


class SmallModel(nn.Module):
    """The three children that every model of xlt has."""

    def __init__(self, with_lm_head: bool = True) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=300,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=40,
        )
        self.backbone = BertModel(config, add_pooling_layer=False)
        self.lm_head = nn.Linear(32, 300) if with_lm_head else None
        self.head = nn.Linear(32, 5)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(7)


@pytest.fixture
def model() -> nn.Module:
    return SmallModel()


@pytest.fixture
def tagger() -> nn.Module:
    """A model without an LM head."""
    return SmallModel(with_lm_head=False)


@pytest.fixture
def header() -> Callable[..., ModuleHeader]:
    def make(**changes: object) -> ModuleHeader:
        values: dict = {"kind": "sparse_delta", "method": "lt_sft", "base_model": "small", "base_hash": "b1"}
        return ModuleHeader(**{**values, **changes})

    return make


@pytest.fixture
def random_delta(header: Callable[..., ModuleHeader]) -> Callable[..., SparseDelta]:
    """Makes a delta with a share of the entries of each named tensor, and a task head."""

    def make(
        model: nn.Module, seed: int, density: float = 0.2, names: Iterable[str] | None = None, with_head: bool = False
    ) -> SparseDelta:
        generator = torch.Generator().manual_seed(seed)
        weights = dict(model.named_parameters())
        entries = {}
        for name in names or [name for name in weights if name.startswith("backbone.")]:
            weight = weights[name]
            chosen = torch.rand(weight.numel(), generator=generator) < density
            indices = chosen.nonzero().flatten()
            entries[name] = Entries(indices, torch.randn(len(indices), generator=generator), weight.shape)
        head = {"head.weight": torch.randn(5, 32, generator=generator)} if with_head else {}
        return SparseDelta(header(provenance={"seed": seed}), entries, head)

    return make


@pytest.fixture
def snapshot() -> Callable[[nn.Module], dict[str, torch.Tensor]]:
    return lambda model: {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def same_bits() -> Callable[[nn.Module, dict[str, torch.Tensor]], bool]:
    def compare(model: nn.Module, saved: dict[str, torch.Tensor]) -> bool:
        now = model.state_dict()
        return now.keys() == saved.keys() and all(
            torch.equal(_bytes(now[name]), _bytes(tensor)) for name, tensor in saved.items()
        )

    return compare


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


@pytest.fixture
def golden_adapter(tmp_path: Path) -> Path:
    """A copy of the Pfeiffer adapter, with an invertible one, in block 0 of 2, as safetensors."""
    return Path(shutil.copytree(GOLDEN / "pfeiffer_safetensors", tmp_path / "golden"))
