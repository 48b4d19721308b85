"""Dependency parsing with a shallow biaffine head (thesis §3.4.3, §4.4.3).

The head is that of Glavaš and Vulić (2021), a variant of Dozat and Manning (2017): biaffine products of the encoder's
word vectors, without recurrent layers or MLPs in between. The papers leave some points open, on which this code decides
as follows ("the reference" is the thesis's own code, cambridgeltl/composable-sft):

- The vector of the root is that of the first position in the last layer. The reference uses BERT's pooled output, which
  the bodies of masked language models do not have (XLM-R has no pooled output at all).
- A decoder's first position has seen no word, so that there the vector of the root is the same for all sentences.
- Dropout acts on the last layer, including the first position, before the pieces of a word are averaged.
- Arcs have a bias on the dependent's side only, because on the head's side it would add the same number to all scores
  of a word. Relations have it on both sides. Both products start at zero, as in the reference, so that at first all
  trees have equal scores.
- A word cannot be its own head, and padding cannot be a head; the reference allows both.
- Words under the root are trained and counted. The reference drops all arcs whose head has the number of the padding
  token: with mBERT (0) those to the root, with XLM-R (1) those to the first word. Its scores leave these words out.
- A word's relation is the best one for its predicted head. The relation `root` is not restricted to the root, and the
  root not to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xlt.config import key
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.errors import UsageError
from xlt.models.transfer import TransferModel
from xlt.tasks.spanning_tree import maximum_spanning_tree
from xlt.tasks.task import Annotation, Decisions, Task, Tensors, pad

# Values in `heads`: the head is in another window of the sentence; there is no word at this place.
_ELSEWHERE, _NO_WORD = -1, -100

# Number of words whose relations are scored together; it limits the size of the (words, relations, hidden) product.
_CHUNK_WORDS = 1024


@dataclass
class ParsingConfig:
    """Settings of dependency parsing."""

    _target_: str = "xlt.tasks.parsing.Parsing"
    relations: list[str] = key("all relations, without subtypes; any other relation in the data is an error", name=True)
    decoding: str = key(
        "how heads are chosen in evaluation: the best head of each word, or the best tree", choices=("greedy", "tree")
    )
    max_length: int = key("maximum length of a window, in tokens; longer sentences are cut between words", low=8)
    dropout: float = key("dropout probability before the head", low=0, high=0.9)


SCHEMA = ParsingConfig


class ParsingHead(nn.Module):
    """A head that computes biaffine scores of arcs and relations.

    With x the vector of the dependent, h that of its head, and [.; 1] a vector with a one appended, the score of an arc
    is [x; 1]^T U h and that of relation r is [x; 1]^T V_r [h; 1]. Scores are float32 (float64 for a float64 model),
    even under autocast.
    """

    def __init__(self, hidden_size: int, relations: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.arcs = nn.Parameter(torch.zeros(hidden_size + 1, hidden_size))
        self.relations = nn.Parameter(torch.zeros(relations, hidden_size + 1, hidden_size + 1))

    def words(self, hidden: Tensor, word: Tensor, count: int) -> Tensor:
        """Averages the hidden states of each word's pieces.

        Args:
            hidden: (batch, length, hidden).
            word: (batch, length) int, the number of a piece's word, 0 for the root, -1 for none.
            count: number of words of the longest sentence.
        Returns:
            (batch, count + 1, hidden); zeros for a word that a sentence does not have.
        """
        hidden = _wide(self.dropout(hidden))
        with _full_precision(hidden):
            # A matrix product with the shares, because unlike a scatter it sums in a fixed order on a GPU, too.
            of_word = word[:, None, :] == torch.arange(count + 1, device=word.device)[:, None]
            shares = of_word.to(hidden.dtype) / of_word.sum(-1, keepdim=True).clamp(min=1)
            return shares @ hidden

    def arc_scores(self, vectors: Tensor) -> Tensor:
        """Computes the scores of each word with each head.

        Args:
            vectors: (batch, words + 1, hidden), the root first.
        Returns:
            (batch, words, words + 1).
        """
        with _full_precision(vectors):
            return _with_one(vectors[:, 1:]) @ _wide(self.arcs) @ vectors.transpose(1, 2)

    def relation_scores(self, dependents: Tensor, heads: Tensor) -> Tensor:
        """Computes relation scores (words, relations) from the vectors (words, hidden) of words and of their heads."""
        weights = _wide(self.relations)
        pairs = zip(dependents.split(_CHUNK_WORDS), heads.split(_CHUNK_WORDS), strict=True)
        with _full_precision(dependents):
            return torch.cat([torch.einsum("ni,rij,nj->nr", _with_one(x), weights, _with_one(h)) for x, h in pairs])


class Parsing(Task):
    """The task of predicting the heads and universal relations of words.

    Metrics: unlabelled and labelled attachment scores over all words, as in CoNLL 2018. A sentence longer than
    `max_length` is cut between words into windows, in training and evaluation. A word whose head is in another window
    has no loss and counts as wrong. (So every word counts, which it would not if long sentences were left out or
    shortened. No treebank in `conf/source` has a sentence of 512 pieces.)

    With `decoding: tree`, the arcs of a window are the best tree with one word under the root. Otherwise every word
    has its best head, and the arcs need not form a tree (the reference's default).
    """

    name = "parsing"
    metric = "las"

    def __init__(self, relations: list[str], decoding: str, max_length: int, dropout: float) -> None:
        self.decoding, self.max_length, self.dropout = decoding, max_length, dropout
        self._relations = list(relations)
        self._index = {relation: number for number, relation in enumerate(self._relations)}

    @property
    def reads(self) -> tuple[str, ...]:
        return ("words",)

    def labels(self) -> list[str]:
        return self._relations

    def check(self, examples: Sequence[Example], source: str) -> None:
        for example in examples:
            for column in ("head", "deprel"):
                if column not in example.columns:
                    raise UsageError(
                        f"{example.place}: there is no column {column}, which task {self.name} needs; check {source}"
                    )
            heads, relations = example.columns["head"], example.columns["deprel"]
            _check_tree(heads, example.place)
            for number, relation in enumerate(relations, start=1):
                if _universal(relation) not in self._index:
                    known = " ".join(self._relations)
                    place = f"{example.place}: word {number}"
                    raise UsageError(f"{place}: relation {relation!r} is not in task.relations ({known})")

    def check_tokenizer(self, encoder: Encoder) -> None:
        if not encoder.prefix:
            raise UsageError(
                "task=parsing: the tokenizer puts no special token before a sentence, which the root needs; "
                "use a model such as BERT or XLM-R"
            )

    def features(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        self.check_tokenizer(encoder)
        room = encoder.room(self.max_length)
        pieces = encoder.words([example.words or () for example in examples], [example.text for example in examples])
        result: list[Features] = []
        for at, (example, words) in enumerate(zip(examples, pieces, strict=True)):
            words = [word[:room] for word in words]  # a word longer than a window keeps its beginning
            start, used = 0, 0
            for number, word in enumerate(words):
                if used + len(word) > room:
                    result.append(self._window(example, words, start, number, encoder) | {"example": at})
                    start, used = number, 0
                used += len(word)
            result.append(self._window(example, words, start, len(words), encoder) | {"example": at})
        return result

    def head(self, hidden_size: int) -> nn.Module:
        return ParsingHead(hidden_size, len(self._relations), self.dropout)

    def collate(self, features: Sequence[Features], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        # There are fewer words than tokens, so heads and relations are not mistaken for rows of tokens and cut.
        return {
            "input_ids": pad([item["input_ids"] for item in features], encoder.pad_id),
            "attention_mask": pad([[1] * len(item["input_ids"]) for item in features], 0),
            "word": pad([item["word"] for item in features], -1),
            "heads": pad([item["heads"] for item in features], _NO_WORD),
            "relations": pad([item["relations"] for item in features], _NO_WORD),
        }

    def targets(self, batch: Tensors) -> int:
        return int((batch["heads"] >= 0).sum())

    def loss(self, model: TransferModel, batch: Tensors) -> Tensor:
        """Cross-entropy of heads plus cross-entropy of relations given the gold heads, summed over words."""
        arcs, relations = self.decisions(model, batch)
        is_target = batch["heads"] >= 0
        return functional.cross_entropy(arcs.logits, batch["heads"][is_target], reduction="sum") + (
            functional.cross_entropy(relations.logits, batch["relations"][is_target], reduction="sum")
        )

    def decisions(self, model: TransferModel, batch: Tensors) -> list[Decisions]:
        """Returns the decisions about heads and, given the gold heads, about relations, of words with a head here."""
        vectors, arcs = self._arcs(model, batch)
        is_target = batch["heads"] >= 0
        scores = self._relation_scores(model, vectors, is_target, batch["heads"][is_target])
        sentence = is_target.nonzero()[:, 0]
        return [Decisions(arcs[is_target], sentence), Decisions(scores, sentence)]

    def blank(self, example: Example) -> Example:
        count = len(example.words or ())
        heads = tuple(map(str, range(count)))  # a chain, which is a tree
        return replace(example, columns={"head": heads, "deprel": (self._relations[0],) * count})

    def parse(self, model: TransferModel, batch: Tensors) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predicts heads (0 is the root) and numbers of relations, (batch, words) int64, and the probabilities of both.

        The values are meaningless at places without a word.
        """
        vectors, arcs = self._arcs(model, batch)
        here = batch["heads"] != _NO_WORD
        heads = arcs.argmax(-1) if self.decoding == "greedy" else _trees(arcs, here)
        scores = self._relation_scores(model, vectors, here, heads[here])
        relations = torch.full_like(heads, _NO_WORD)
        relations[here] = scores.argmax(-1)
        sure = arcs.softmax(-1).gather(-1, heads[..., None]).squeeze(-1)
        sure_of_relation = torch.zeros_like(sure)
        sure_of_relation[here] = scores.softmax(-1).amax(-1)
        return heads, relations, sure, sure_of_relation

    def predict(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> list[tuple[list[Any], ...]]:
        """Returns for each row the heads of its words, 0 for the root, the relations, and the probabilities of both."""
        words = (batch["heads"] != _NO_WORD).sum(1).tolist()
        parts = (part.tolist() for part in self.parse(model, batch))
        return [tuple(row[:count] for row in of) for *of, count in zip(*parts, words, strict=True)]

    def compare(
        self, predicted: Sequence[tuple[list[Any], ...]], batch: Tensors, rows: Sequence[Features]
    ) -> tuple[int, int, int]:
        attached = labelled = words = 0
        gold = zip(batch["heads"].tolist(), batch["relations"].tolist(), strict=True)
        for (heads, relations, *_), (gold_heads, gold_relations) in zip(predicted, gold, strict=True):
            words += len(heads)
            for number, head in enumerate(heads):
                right = head == gold_heads[number]  # False where the head is in another window
                attached += right
                labelled += right and relations[number] == gold_relations[number]
        return attached, labelled, words

    def annotate(self, rows: Sequence[Features], predicted: Sequence[tuple[list[Any], ...]]) -> Annotation:
        heads, relations, sure, sure_of_relation = [], [], [], []
        for row, (row_heads, row_relations, *row_sure) in zip(rows, predicted, strict=True):
            heads += [str(head + row["start"] if head else 0) for head in row_heads]
            relations += [self._relations[number] for number in row_relations]
            sure += row_sure[0]
            sure_of_relation += row_sure[1]
        return Annotation({"head": heads, "deprel": relations}, scores={"head": sure, "deprel": sure_of_relation})

    def metrics(self, scores: Sequence[tuple[int, int, int]]) -> dict[str, float]:
        attached, labelled, count = (sum(column) for column in zip(*scores, strict=True))
        return {"uas": 100 * attached / count, "las": 100 * labelled / count, "words": float(count)}

    def _arcs(self, model: TransferModel, batch: Tensors) -> tuple[Tensor, Tensor]:
        """Computes word vectors (batch, words + 1, hidden) and arc scores (batch, words, words + 1), -inf: no arc."""
        head = self.head_of(model)
        count = batch["heads"].shape[1]
        vectors = head.words(model.encode(batch["input_ids"], batch["attention_mask"]), batch["word"], count)
        is_absent = functional.pad(batch["heads"] == _NO_WORD, (1, 0))  # the root always exists
        itself = torch.eye(count, count + 1, dtype=torch.bool, device=is_absent.device).roll(1, 1)
        return vectors, head.arc_scores(vectors).masked_fill(is_absent[:, None, :] | itself, -torch.inf)

    def _relation_scores(self, model: TransferModel, vectors: Tensor, mask: Tensor, heads: Tensor) -> Tensor:
        """Computes relation scores (marked words, relations) of the words that `mask` (batch, words) marks."""
        sentence, word = mask.nonzero(as_tuple=True)
        return self.head_of(model).relation_scores(vectors[sentence, word + 1], vectors[sentence, heads])

    def _window(self, example: Example, words: list[list[int]], start: int, end: int, encoder: Encoder) -> Features:
        """Returns the row of the words from `start` up to `end`, which it numbers from 1, and their heads likewise."""
        heads = [int(head) for head in example.columns["head"][start:end]]
        inside = [head == 0 or start < head <= end for head in heads]
        of_word = [number for number, word in enumerate(words[start:end], start=1) for _ in word]
        return {
            "input_ids": encoder.wrap([piece for word in words[start:end] for piece in word]),
            "start": start,
            "word": [0, *[-1] * (len(encoder.prefix) - 1), *of_word, *[-1] * len(encoder.suffix)],
            "heads": [max(head - start, 0) if ok else _ELSEWHERE for head, ok in zip(heads, inside, strict=True)],
            "relations": [self._index[_universal(relation)] for relation in example.columns["deprel"][start:end]],
        }


def _trees(arcs: Tensor, here: Tensor) -> Tensor:
    """Returns the heads (batch, words) of the best trees.

    Args:
        arcs: (batch, words, words + 1) scores.
        here: (batch, words) bool, True where there is a word.
    """
    scores = arcs.detach().cpu().numpy()
    heads = torch.zeros(here.shape, dtype=torch.int64)
    for number, count in enumerate(here.sum(1).tolist()):
        heads[number, :count] = torch.from_numpy(maximum_spanning_tree(scores[number, :count, : count + 1]))
    return heads.to(arcs.device)


def _check_tree(heads: Sequence[str], place: str) -> None:
    """Refuses heads that are no word numbers, no or several words under the root, and cycles."""
    for number, head in enumerate(heads, start=1):
        if not (head.isascii() and head.isdecimal() and int(head) <= len(heads)):
            raise UsageError(f"{place}: word {number}: head {head!r} is not a number from 0 to {len(heads)}")
        if int(head) == number:
            raise UsageError(f"{place}: word {number}: it is its own head; correct the file")
    up = [0, *map(int, heads)]
    if (roots := up[1:].count(0)) != 1:
        raise UsageError(f"{place}: the sentence has {roots} words with head 0, but must have exactly one")
    reaches_root = {0}
    for number in range(1, len(up)):
        path = []
        while number not in reaches_root:
            if number in path:
                raise UsageError(f"{place}: word {number}: its heads form a cycle and do not lead to the root")
            path.append(number)
            number = up[number]
        reaches_root.update(path)


def _universal(relation: str) -> str:
    """Removes the subtype of a relation: `nsubj:pass` becomes `nsubj`."""
    return relation.split(":")[0]


def _with_one(vectors: Tensor) -> Tensor:
    return functional.pad(vectors, (0, 1), value=1.0)


def _wide(tensor: Tensor) -> Tensor:
    """Converts to float32, unless the dtype is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _full_precision(tensor: Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)
