from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from xlt.tasks.spanning_tree import maximum_spanning_tree


def is_tree(heads: tuple[int, ...]) -> bool:
    """One word under the root, and every word reaches it."""
    if heads.count(0) != 1:
        return False
    for start in range(1, len(heads) + 1):
        node = start
        for _ in heads:
            node = heads[node - 1] if node else 0
        if node:
            return False
    return True


def trees(words: int) -> Iterator[tuple[int, ...]]:
    return filter(is_tree, itertools.product(range(words + 1), repeat=words))


def total(scores: np.ndarray, heads: tuple[int, ...]) -> float:
    return sum(float(scores[word, head]) for word, head in enumerate(heads))


def found(scores: np.ndarray) -> tuple[int, ...]:
    return tuple(maximum_spanning_tree(scores).tolist())


def test_a_cycle_of_best_heads_is_broken_where_it_costs_least() -> None:
    # Best heads: 1 -> 2 and 2 -> 1. Word 1 under the root: 1.5 + 2.5 = 4.0; word 2 under it: 0.5 + 2.0 = 2.5.
    assert found(np.array([[1.5, 9.0, 2.0], [0.5, 2.5, 9.0]])) == (0, 1)


def test_only_one_word_hangs_from_the_root_even_where_two_would_score_more() -> None:
    # Both under the root: 10 + 9. With one: 10 + 1 or 9 + 1.5; then 10 + 1 or 9 + 3.
    assert found(np.array([[10.0, 0.0, 1.5], [9.0, 1.0, 0.0]])) == (0, 1)
    assert found(np.array([[10.0, 0.0, 3.0], [9.0, 1.0, 0.0]])) == (2, 0)


@pytest.mark.parametrize("words", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["normal", "ties", "two values", "root is best", "wide", "float32"])
def test_no_tree_scores_more(words: int, kind: str) -> None:
    draw = np.random.default_rng([words, len(kind)])
    every = list(trees(words))
    assert len(every) == words ** (words - 1)  # rooted labelled trees: Cayley
    for _ in range(60):
        scores = draw.normal(size=(words, words + 1))
        if kind == "ties":
            scores = np.round(scores)
        elif kind == "two values":
            scores = (scores > 0).astype(float)
        elif kind == "root is best":
            scores[:, 0] += 10
        elif kind == "wide":
            scores *= 10.0 ** draw.integers(-3, 4, size=scores.shape)
        elif kind == "float32":
            scores = scores.astype(np.float32)
        heads = found(scores)
        assert is_tree(heads)
        assert total(scores, heads) == pytest.approx(max(total(scores, tree) for tree in every), abs=1e-9)


def test_equal_scores_give_a_tree_and_always_the_same() -> None:
    for words in (1, 2, 7, 40):
        heads = found(np.zeros((words, words + 1)))
        assert is_tree(heads)
        assert found(np.zeros((words, words + 1))) == heads


def test_a_forbidden_arc_is_not_taken() -> None:
    draw = np.random.default_rng(3)
    for _ in range(50):
        scores = draw.normal(size=(4, 5))
        forbidden = draw.random((4, 5)) < 0.4
        forbidden[:, 0] = False
        scores[forbidden] = -np.inf
        best = max(total(scores, tree) for tree in trees(4))
        if np.isfinite(best):
            assert total(scores, found(scores)) == pytest.approx(best)


def test_cycles_within_cycles_are_opened_from_the_outside() -> None:
    # 1 and 2 point at each other, their cycle and 3 too, that cycle and 4 too: each contraction makes the next cycle.
    scores = np.full((4, 5), -50.0)
    for word, head, score in [(1, 2, 20), (2, 1, 20), (1, 3, 9), (3, 2, 15), (2, 4, 5), (4, 3, 12), (3, 0, 1)]:
        scores[word - 1, head] = score
    # Under the root: 3; then 1 from 3 (9) and 2 from 1 (20), not 2 from 4; 4 from 3.
    assert found(scores) == (3, 1, 0, 3)


def test_a_long_sentence_is_a_tree_and_no_single_change_of_head_betters_it() -> None:
    draw = np.random.default_rng(5)
    scores = draw.normal(size=(120, 121))
    heads = found(scores)
    assert is_tree(heads)
    for word, head in itertools.product(range(120), range(1, 121)):
        changed = (*heads[:word], head, *heads[word + 1 :])
        if scores[word, head] > scores[word, heads[word]]:
            assert not is_tree(changed)


def test_the_scores_are_left_as_they_were() -> None:
    scores = np.random.default_rng(7).normal(size=(6, 7))
    before = scores.copy()
    found(scores)
    assert np.array_equal(scores, before)
