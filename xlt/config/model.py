"""The keys of the model, of its student and teacher, and of the runs that a run begins with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xlt.config.schema import RunFacts, key
from xlt.languages import language_fault

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
    """Another run that this one stands on, by how it is composed."""

    experiment: str = key("name of a file in conf/experiment")
    overrides: list[str] = key("Hydra overrides on top of it; {language} stands for the language's code")


@dataclass
class StartConfig:
    """The module whose values training begins with, of the same method and shape; both null: fresh values."""

    path: str | None = key("module file", file=True)
    run: RunReference | None = key("the run that leaves it; a generator makes it for the run's language")

    def faults(self, prefix: str) -> Iterator[str]:
        if self.path is not None and self.run is not None:
            yield f"{prefix}: give one of {prefix}.path and {prefix}.run, not both"


@dataclass
class RandomModelConfig:
    """A model with random weights and a tokenizer trained on the run's own sources."""

    architecture: str = key("transformers model type", choices=("bert", "roberta", "xlm-roberta", "m2m_100"))
    layers: int = key("number of Transformer blocks; of an encoder-decoder, in each half", low=1)
    hidden_size: int = key("width", low=8)
    heads: int = key("attention heads", low=1)
    intermediate_size: int = key("feed-forward width", low=8)
    max_positions: int = key("longest input, tokens", low=16)
    vocabulary: int = key("tokenizer entries, special tokens included", low=300)
    dropout: float = key("dropout of hidden states and attention", low=0, high=0.9)

    def faults(self, prefix: str) -> Iterator[str]:
        if self.hidden_size % self.heads:
            yield f"{prefix}.heads={self.heads}: must divide {prefix}.hidden_size={self.hidden_size}"


@dataclass
class StudentConfig:
    """What a smaller model keeps of a pre-trained one, to be distilled for two languages (thesis §5.3.2)."""

    layer_reduction: int = key("layers of the model / layers of the student", low=1, hint="thesis §5.4.2: 2 and 3")
    hidden_size: int | None = key("width of the student; null: the model's", low=2)
    token_probability: float = key(
        "a token is kept whose share of a language's text is at least this; 0: all that occur", low=0, high=1
    )
    characters: bool = key("keep all single characters as well")
    copies: bool = key("start from the model's values; false: from random ones (thesis §5.4.1, Scratch)")
    run: RunReference | None = key(
        "the run that trains it, {source} and {target} filled in; null: this run", known_by="the fingerprint of the run"
    )


@dataclass
class TeacherConfig:
    """Distillation from the whole model into its student (thesis §5.3)."""

    losses: list[str] = key("of attention (Eq. 5.1), hidden (Eq. 5.2), prediction (Eq. 5.3); empty: no teacher")
    knows_task: bool = key(
        "the teacher has the module of the same run without student, not only language modules",
        known_by="the identity of its module",
    )
    path: str | None = key(
        "module file of the task that the teacher has, used in place of training it",
        file=True,
        known_by="the content of the file",
    )
    dtype: str = key("of the teacher's weights", choices=("float32", "bfloat16"))

    def unused(self, facts: RunFacts) -> Iterator[str]:
        """What the teacher is like where there is none."""
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
    """Which pre-trained Transformer: exactly one of `path`, `run` and `random`; and whether it or a student of it."""

    path: str | None = key(
        "local folder or hub id of a pre-trained model", known_by="the content of the folder; of the hub, the id"
    )
    revision: str | None = key("commit or tag of a hub model", known_by="the model, together with its path")
    run: RunReference | None = key("the run whose checkpoint is the model", known_by="the fingerprint of the run")
    random: RandomModelConfig | None = key("random weights, for pre-training a model from scratch")
    dtype: str = key("of the pre-trained weights in memory", choices=("float32", "bfloat16"))
    quantise: str | None = key("nf4: the blocks' linear layers in 4 bits (thesis §7.2.3); null: as dtype says",
                               choices=("nf4",))  # fmt: skip
    dropout: float | None = key(
        "of hidden states and attention while it trains; null: the pre-trained model's own",
        low=0,
        high=0.9,
    )
    student: StudentConfig | None = key("use a smaller model made of it; null: the model itself")
    new_languages: dict[str, str | None] = key(
        "of a translator: language that it gets a token for -> relative it begins as; null: the mean"
    )

    def unused(self, facts: RunFacts) -> Iterator[str]:
        """Random weights are float32, and their tokenizer has the languages of the data."""
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
        if self.path is not None and (fault := self._path_fault(self.path)) is not None:
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
        """What is wrong with a local folder; None for a hub id, which only loading can judge."""
        folder = Path(path).expanduser()
        looks_local = not path or path.startswith((".", "/", "~")) or path.count("/") > 1 or folder.exists()
        if not looks_local:
            return None
        if not path or not (folder / "config.json").is_file():
            return "no model there; a local model is a folder with config.json and weights"
        if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
            return "config.json without weights (model.safetensors)"
        if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
            # transformers would make up an empty vocabulary
            return "config.json without a tokenizer (tokenizer.json)"
        return None
