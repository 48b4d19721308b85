"""UAS and LAS agree with the evaluation of CoNLL 2018."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from udtools import udeval

from tests.parsed_sentences import RELATIONS, Given, parsing_task, random_head, some_sentences
from tests.source_configs import source_config
from xlt.compose import compose, hydra_ready
from xlt.data.encoding import Encoder
from xlt.data.mix import LoadedSource
from xlt.data.readers import conllu
from xlt.engine.evaluation import evaluate
from xlt.models.transfer import TransferModel
from xlt.tasks.parsing import Parsing


def conll_2018(gold: Path, system: Path, *, many_roots: bool = False) -> dict[str, Any]:
    kind = {"multiple_roots_okay": many_roots}
    return udeval.evaluate(udeval.load_conllu_file(str(gold), kind), udeval.load_conllu_file(str(system), kind))


class _Says(Parsing):
    """A parser that predicts what it is told of each row, by the row's `number`."""

    said: list[tuple[list[int], list[int]]]

    def collate(self, features: Sequence[Any], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        batch = super().collate(features, encoder, generator)
        return batch | {"number": torch.tensor([row["number"] for row in features])}

    def parse(self, model: TransferModel, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        heads, relations = torch.zeros_like(batch["heads"]), torch.zeros_like(batch["heads"])
        for row, number in enumerate(batch["number"].tolist()):
            predicted = torch.tensor(self.said[number])
            heads[row, : predicted.shape[1]], relations[row, : predicted.shape[1]] = predicted
        sure = torch.ones(heads.shape)
        return heads, relations, sure, sure


def noisy(heads: Sequence[int], share: float, draw: random.Random) -> list[int]:
    """Some words moved to another head, the tree kept: never under a word that is under them; some roots changed."""
    heads = list(heads)
    root = heads.index(0) + 1
    under_root = [word for word, head in enumerate(heads, start=1) if head == root]
    if under_root and draw.random() < share:
        heads[root - 1] = draw.choice(under_root)
        heads[heads[root - 1] - 1] = 0
    for word in range(1, len(heads) + 1):
        above = draw.randint(1, len(heads))
        node = above
        while node not in (0, word):
            node = heads[node - 1]
        if heads[word - 1] != 0 and node == 0 and draw.random() < share:
            heads[word - 1] = above
    return heads


def write_predictions(gold: Path, system: Path, predicted: Sequence[tuple[Sequence[int], Sequence[str]]]) -> None:
    """The gold file with other heads and relations; lines of multi-word tokens and empty nodes stay."""
    sentences = iter(predicted)
    lines, heads, relations = [], iter([0]), iter([""])
    fresh = True
    for line in gold.read_text(encoding="utf-8").split("\n"):
        fields = line.split("\t")
        if fields[0].isdecimal():
            if fresh:
                one = next(sentences)
                heads, relations, fresh = iter(one[0]), iter(one[1]), False
            fields[6:8] = [str(next(heads)), next(relations)]
        elif not line:
            fresh = True
        lines.append("\t".join(fields))
    system.write_text("\n".join(lines), encoding="utf-8")


def assert_agreement(found: Mapping[str, float], official: Mapping[str, Any]) -> None:
    assert found["words"] == official["Words"].gold_total
    for ours, theirs in (("uas", "UAS"), ("las", "LAS")):
        score = official[theirs]
        assert round(found[ours] * found["words"] / 100) == score.correct
        assert found[ours] == pytest.approx(100 * score.f1, rel=1e-12)
        assert f"{found[ours]:.2f}" == f"{100 * score.f1:.2f}" == f"{100 * score.aligned_accuracy:.2f}"


def agree(gold: Path, parsing: _Says, encoder: Encoder, folder: Path, *, words: int) -> None:
    examples = list(conllu.read(source_config("conllu", "eng", str(gold), split="test")))
    parsing.check(examples, "s")
    draw = random.Random(1)
    known, predicted = parsing.labels(), []
    features = [row | {"number": number} for number, row in enumerate(parsing.features(examples, encoder))]
    assert len(features) == len(examples)
    for sentence in examples:
        heads = noisy([int(head) for head in sentence.columns["head"]], 0.3, draw)
        labels = [f"{draw.choice(known)}:x" if draw.random() < 0.2 else r for r in sentence.columns["deprel"]]
        predicted.append((heads, labels))
    parsing.said = [(heads, [known.index(label.split(":")[0]) for label in labels]) for heads, labels in predicted]
    write_predictions(gold, folder / "system.conllu", predicted)
    model = Given(torch.zeros(1), nn.Linear(1, 1))
    found = evaluate(model, parsing, [LoadedSource("s", "eng", features)], encoder, 16, "fp32")
    assert found["words"] >= words and 0 < found["las"] < found["uas"] < 100
    assert_agreement(found, conll_2018(gold, folder / "system.conllu"))


SMALL = """\
# a multi-word token, an empty node, subtypes, underscores
1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tdo\tdo\tAUX\t_\t_\t3\taux:pass\t_\t_
2\tn't\tnot\tPART\t_\t_\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\t_\t_\t0\troot\t_\t_
3.1\tgo\tgo\tVERB\t_\t_\t_\t_\t_\t_
4\t_\t_\tSYM\t_\t_\t3\tobj\t_\t_
5\t.\t.\tPUNCT\t_\t_\t3\tpunct\t_\t_

1\tgo\tgo\tVERB\t_\t_\t0\troot\t_\t_

1\tred\tred\tADJ\t_\t_\t2\tamod\t_\t_
2\tcats\tcat\tNOUN\t_\t_\t3\tnsubj\t_\t_
3\tsleep\tsleep\tVERB\t_\t_\t0\troot\t_\t_
4\ta b\tab\tADV\t_\t_\t3\tadvmod\t_\t_

"""
UNIVERSAL = ["advmod", "amod", "aux", "nsubj", "obj", "punct", "root"]


def test_scores_agree_with_the_conll_2018_evaluation_on_small_sentences(tmp_path: Path, encoder: Encoder) -> None:
    gold = tmp_path / "gold.conllu"
    gold.write_text(SMALL * 5, encoding="utf-8")
    agree(gold, _Says(UNIVERSAL, "greedy", 64, 0.0), encoder, tmp_path, words=50)


def _as_conllu(sentences: Sequence[tuple[Sequence[str], Sequence[object], Sequence[str]]]) -> str:
    rows = []
    for words, heads, relations in sentences:
        for number, (word, head, relation) in enumerate(zip(words, heads, relations, strict=True), start=1):
            rows.append(f"{number}\t{word}\t_\t_\t_\t_\t{head}\t{relation}\t_\t_")
        rows.append("")
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize(("max_length", "longest"), [(48, 6), (16, 25)])
def test_a_models_trees_score_as_in_the_conll_2018_evaluation(
    max_length: int, longest: int, make_model: Callable[..., TransferModel], encoder: Encoder, tmp_path: Path
) -> None:
    parsing = parsing_task(max_length, decoding="tree")
    # Cut in windows, a sentence has a word under the root in each of them.
    examples = some_sentences(12, seed=6, longest=longest)
    model = make_model(parsing).eval()
    random_head(model.head)
    features = [parsing.features([one], encoder) for one in examples]
    assert (max(map(len, features)) > 1) == (max_length == 16)
    written = []
    for sentence, rows in zip(examples, features, strict=True):
        heads, relations = [], []
        for row in rows:
            found = parsing.parse(model, parsing.collate([row], encoder, torch.Generator()))
            start = len(heads)
            heads += [head and head + start for head in found[0][0].tolist()]
            relations += [RELATIONS[relation] for relation in found[1][0].tolist()]
        written.append((sentence.words or (), heads, relations))
    gold, system = tmp_path / "gold.conllu", tmp_path / "system.conllu"
    gold.write_text(_as_conllu([(e.words or (), e.columns["head"], e.columns["deprel"]) for e in examples]))
    system.write_text(_as_conllu(written))
    source = LoadedSource("s", "eng", [row for rows in features for row in rows])
    found_metrics = evaluate(model, parsing, [source], encoder, 5, "fp32")
    assert found_metrics["uas"] > 0
    assert_agreement(found_metrics, conll_2018(gold, system, many_roots=max_length == 16))


@pytest.mark.real
@pytest.mark.parametrize("treebank", ["UD_English-EWT", "UD_Faroese-FarPaHC", "UD_Maltese-MUDT", "UD_Greek-GDT"])
def test_scores_agree_with_the_conll_2018_evaluation_on_a_treebank(
    treebank: str, tmp_path: Path, encoder: Encoder
) -> None:
    folder = os.environ.get("XLT_DATA_DIR")
    if not folder:
        pytest.skip("XLT_DATA_DIR is not set: a folder with ud/UD_English-EWT, ...")
    with hydra_ready():
        relations = list(compose(["task=parsing"]).task.relations)
    assert len(relations) == 37
    gold = next(Path(folder).joinpath("ud", treebank).glob("*test.conllu"))
    agree(gold, _Says(relations, "greedy", 4096, 0.0), encoder, tmp_path, words=8000)
