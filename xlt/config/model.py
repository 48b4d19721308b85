"""The config keys of the model, of its student and teacher, and of references to other runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from xlt.config.model_folder import MOST_LAYERS, kind_fault, memory_bytes, model_folder_fault
from xlt.config.schema import RunFacts, key
from xlt.languages import language_fault

_LONGEST_HEADER = 100_000_000  # bytes; the limit of safetensors itself
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)


@dataclass
class RunReference:
    """A reference to another run that this run needs: the config that the other run is composed from."""

    experiment: str = key("name of a file in conf/experiment")
    overrides: list[str] = key("Hydra overrides on top of it; {language} is replaced by the language's code")


@dataclass
class StartConfig:
    """The module whose values training starts from, of the same method and shape; both keys null: new values."""

    path: str | None = key("module file to start from, or ORG/NAME of the hub", module=True)
    run: RunReference | None = key(
        "run that makes the module to start from; a generator generates it for the run's language"
    )

    def faults(self, prefix: str) -> Iterator[str]:
        if self.path is not None and self.run is not None:
            yield f"{prefix}: give one of {prefix}.path and {prefix}.run, not both"


@dataclass
class RandomModelConfig:
    """A model with random weights, and a tokenizer that is trained on the run's sources."""

    architecture: str = key("transformers model type", choices=("bert", "roberta", "xlm-roberta", "m2m_100"))
    layers: int = key("number of Transformer blocks; in an encoder-decoder, of each half", low=1)
    hidden_size: int = key("width of the hidden states", low=8)
    heads: int = key("number of attention heads", low=1)
    intermediate_size: int = key("width of the feed-forward layers", low=8)
    max_positions: int = key("longest input, in tokens", low=16)
    vocabulary: int = key("number of tokenizer entries, with special tokens", low=300)
    dropout: float = key("dropout probability of hidden states and attention", low=0, high=0.9)

    def faults(self, prefix: str) -> Iterator[str]:
        if self.hidden_size % self.heads:
            yield f"{prefix}.heads={self.heads}: must divide {prefix}.hidden_size={self.hidden_size}"
        width, blocks = self.hidden_size, self.layers * (4 * self.hidden_size + 2 * self.intermediate_size)
        parameters = width * (self.vocabulary + self.max_positions + blocks)
        if self.layers > MOST_LAYERS or 4 * parameters > memory_bytes():
            yield (
                f"{prefix}: {self.layers} layers of width {width} with a vocabulary of {self.vocabulary} are about "
                f"{parameters:.2g} parameters, too many for this machine; give a smaller model"
            )


@dataclass
class StudentConfig:
    """A student: a smaller copy of the pre-trained model, to be distilled for two languages (thesis §5.3.2)."""

    layer_reduction: int = key(
        "layers of the model divided by layers of the student", low=1, hint="thesis §5.4.2: 2 and 3"
    )
    hidden_size: int | None = key("width of the student; null: the model's", low=2)
    token_probability: float = key(
        "keep tokens with at least this share of a language's text; 0: all that occur", low=0, high=1
    )
    characters: bool = key("also keep all tokens of a single character")
    copies: bool = key("initialise with the model's weights; false: random weights (thesis §5.4.1, Scratch)")
    run: RunReference | None = key(
        "run that trains the student; {source} and {target} are replaced by codes; null: this run",
        known_by="the fingerprint of the run",
    )


@dataclass
class TeacherConfig:
    """The distillation from the whole model (the teacher) into its student (thesis §5.3)."""

    losses: list[str] = key("any of attention (Eq. 5.1), hidden (Eq. 5.2), prediction (Eq. 5.3); empty: no teacher")
    knows_task: bool = key(
        "add a task module to the teacher: that of the same run without a student, or `path`",
        known_by="the identity of the teacher's module",
    )
    path: str | None = key(
        "file of the teacher's task module, used instead of training one; null: train it",
        module=True,
        known_by="the content of the file",
    )
    dtype: str = key("dtype of the teacher's weights", choices=("float32", "bfloat16"))

    def unused(self, facts: RunFacts) -> Iterator[str]:
        """Yields the keys that describe the teacher if there is none."""
        if not self.losses:
            yield "dtype"

    def faults(self, prefix: str) -> Iterator[str]:
        known = ("attention", "hidden", "prediction")
        for name in self.losses:
            if name not in known:
                yield f"{prefix}.losses: {name} is none of {', '.join(known)}"
        if "prediction" in self.losses and not self.knows_task:
            yield f"{prefix}.losses: prediction needs a teacher that knows the task; give {prefix}.knows_task=true"
        if self.path is not None and not self.knows_task:
            yield f"{prefix}.path={self.path}: needs {prefix}.knows_task=true"


@dataclass
class ModelConfig:
    """The base model: exactly one of `path`, `run` and `random`, or a student that is made of it."""

    path: str | None = key(
        "local folder or hub id of a pre-trained model", known_by="the content of the folder, or the hub id"
    )
    revision: str | None = key("commit or tag of a hub model", known_by="the model, together with its path")
    run: RunReference | None = key("run whose checkpoint is the model", known_by="the fingerprint of the run")
    random: RandomModelConfig | None = key("random weights, for pre-training a model from scratch")
    trust_remote_code: bool = key("run the Python code beside the model (auto_map); only for authors you trust")
    dtype: str = key("dtype of the pre-trained weights in memory", choices=("float32", "bfloat16"))
    quantise: str | None = key("nf4: the blocks' linear layers have 4-bit weights (thesis §7.2.3); null: as dtype says",
                               choices=("nf4",))  # fmt: skip
    dropout: float | None = key(
        "dropout probability of hidden states and attention in training; null: the model's own",
        low=0,
        high=0.9,
    )
    student: StudentConfig | None = key("use a smaller model made from this one; null: the model itself")
    new_languages: dict[str, str | None] = key(
        "for a translator: new language -> language whose token vector it starts from; null: the mean"
    )

    def unused(self, facts: RunFacts) -> Iterator[str]:
        """Yields keys without effect: random weights are float32, and their tokenizer has the data's languages."""
        if self.random is not None:
            yield from ("dtype", "new_languages")

    def faults(self, prefix: str) -> Iterator[str]:
        given = [name for name in ("path", "run", "random") if getattr(self, name) is not None]
        if len(given) != 1:
            what = " and ".join(f"{prefix}.{name}" for name in given) or "none"
            yield (
                f"{prefix}: exactly one of {prefix}.path, {prefix}.run, {prefix}.random must be given, not {what}; "
                f"for instance {prefix}.path=bert-base-multilingual-cased"
            )
        if self.path is not None and (fault := _known_path_fault(self.path)) is not None:
            yield f"{prefix}.path={self.path}: {fault}"
        for language, relative in self.new_languages.items():
            for code in (language,) if relative is None else (language, relative):
                if (fault := language_fault(code)) is not None:
                    yield f"{prefix}.new_languages.{language}={relative}: {code} is {fault}"
        if self.dropout is not None and self.random is not None:
            yield f"{prefix}.dropout={self.dropout}: random weights have one in {prefix}.random.dropout"
        if self.student is not None and self.random is not None:
            yield f"{prefix}.student: of random weights nothing is to be learned; give {prefix}.path or {prefix}.run"
        if self.student is not None and self.quantise is not None:
            yield f"{prefix}.quantise={self.quantise}: not together with {prefix}.student"

    @staticmethod
    def _path_fault(path: str) -> str | None:
        """Returns what is wrong with a local folder; None for a hub id, which can be checked only by loading it."""
        folder = Path(path).expanduser()
        looks_local = not path or path.startswith((".", "/", "~")) or path.count("/") > 1 or folder.exists()
        if not looks_local:
            return None
        if not path or not (folder / "config.json").is_file():
            return "no model there; a local model is a folder with config.json and weights"
        if (fault := kind_fault(folder)) is not None:
            return fault
        if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
            return "config.json without weights (model.safetensors)"
        if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
            # Without these files transformers would load a tokenizer with an empty vocabulary.
            return "config.json without a tokenizer (tokenizer.json)"
        faults = (_weights_fault(file) for file in sorted(folder.glob("*.safetensors")))
        return next((fault for fault in faults if fault is not None), None) or model_folder_fault(folder)


def _known_path_fault(path: str) -> str | None:
    """Returns `ModelConfig._path_fault` of a path, which reads megabytes: once for all runs of a plan.

    The answer counts as long as the files in the folder have the size, the time and the number that they had.
    """
    try:
        with os.scandir(Path(path).expanduser()) as entries:
            states = [(entry.name, entry.stat()) for entry in entries]
    except (OSError, RuntimeError, ValueError):
        return ModelConfig._path_fault(path)
    return _path_fault_of(path, tuple(sorted((name, s.st_mtime_ns, s.st_size, s.st_ino) for name, s in states)))


@lru_cache(maxsize=64)
def _path_fault_of(path: str, _: tuple[tuple[str, int, int, int], ...]) -> str | None:
    return ModelConfig._path_fault(path)


def _weights_fault(file: Path) -> str | None:
    """Returns why a safetensors file holds no whole weights, by its size and its header; None if it may hold them.

    The file begins with the length of its header (8 bytes, little-endian); the header says where each tensor ends.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(24)
        if start.startswith(b"version https://git-lfs"):
            return f"{file.name} is a pointer of Git LFS, not the weights; run git lfs pull in the model's repository"
        length = int.from_bytes(start[:8], "little")
        if len(start) < 8 or length > min(size - 8, _LONGEST_HEADER):
            return f"{file.name} is incomplete, or no safetensors file; copy it again"
        stream.seek(8)
        try:
            tensors = json.loads(stream.read(length))
            end = max((part["data_offsets"][1] for name, part in tensors.items() if name != "__metadata__"), default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return f"{file.name} is no safetensors file; copy it again"
    if 8 + length + end < size:
        return f"{file.name} has {size} bytes, but its tensors end at {8 + length + end}; copy it again"
    if 8 + length + end > size:
        return f"{file.name} is incomplete: it has {size} bytes of {8 + length + end}; copy it again"
    return None
