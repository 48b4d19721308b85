"""Finds the maximum spanning tree of a sentence's arc scores (McDonald et al. 2005), with one word under the root."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


def maximum_spanning_tree(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """Returns the heads of the best tree in which exactly one word is under the root.

    This is the Chu-Liu/Edmonds algorithm on a dense matrix, in O(words^2). It follows heads until it reaches the root
    or closes a cycle, which it contracts to one node. First it subtracts from the score of every root arc more than any
    two trees can differ by, so that the best tree has only one such arc (Stanojević and Cohen 2021). float64 then still
    holds the differences of scores with more digits than float32 has.

    Args:
        scores: (words, words + 1) score of the arc from each word to the root (column 0) and to word j (column j).
            A word's score as its own head is ignored. -inf forbids an arc, except one to the root.
    Returns:
        (words,) int64 heads, 0 is the root. Of several best trees always the same one.
    """
    words = len(scores)
    weights = np.full((words + 1, words + 1), -np.inf)
    weights[1:] = scores
    np.fill_diagonal(weights, -np.inf)
    allowed = weights[np.isfinite(weights)]
    if words > 1:
        weights[1:, 0] -= words * (allowed.max() - allowed.min()) + 1
    search = _Search(weights)
    for node in range(1, words + 1):
        search.connect(node)
    return search.heads()


class _Search:
    """The state of the search: nodes and their best heads, with the cycles that were contracted.

    A contracted cycle keeps the number of its first node; its other nodes are not used again. For each entry
    (dependent, head) of `weights`, `_from` and `_to` say for which arc between words it stands.
    """

    def __init__(self, weights: Scores) -> None:
        size = len(weights)
        self._weights = weights
        self._from, self._to = np.indices((size, size))  # the dependent and the head of the arc behind an entry
        self._best = weights.argmax(1)
        self._connected = [True] + [False] * (size - 1)  # whether a node's heads lead to the root, node 0
        self._members = [{node} for node in range(size)]
        self._removed: set[int] = set()
        self._contracted: list[list[tuple[int, set[int], tuple[int, int]]]] = []

    def connect(self, start: int) -> None:
        """Follows the best heads from a node to the root and contracts every cycle on the way."""
        if start in self._removed:
            return
        path = [] if self._connected[start] else [start]
        while path:
            up = int(self._best[path[-1]])
            if self._connected[up]:
                for node in path:
                    self._connected[node] = True
                return
            if up in path:
                at = path.index(up)
                path[at:] = [self._contract(path[at:])]
            else:
                path.append(up)

    def heads(self) -> NDArray[np.int64]:
        """Opens the cycles, the last first; the arc into a cycle replaces one of its arcs. Returns the heads."""
        nodes = [node for node in range(1, len(self._best)) if node not in self._removed]
        arcs = {node: self._arc(node) for node in nodes}
        for cycle in reversed(self._contracted):
            entering = arcs.pop(cycle[0][0])
            for node, members, arc in cycle:
                arcs[node] = entering if entering[0] in members else arc
        heads = np.zeros(len(self._best) - 1, dtype=np.int64)
        for dependent, head in arcs.values():
            heads[dependent - 1] = head
        return heads

    def _arc(self, node: int) -> tuple[int, int]:
        head = self._best[node]
        return int(self._from[node, head]), int(self._to[node, head])

    def _contract(self, cycle: list[int]) -> int:
        """Contracts a cycle to one node and returns the node's number."""
        weights, nodes, every = self._weights, np.array(cycle), np.arange(len(self._weights))
        self._contracted.append([(node, self._members[node], self._arc(node)) for node in cycle])
        first, rest = cycle[0], cycle[1:]
        # An arc into the cycle replaces the arc that the entered word has within the cycle.
        gains = weights[nodes] - weights[nodes, self._best[nodes]][:, None]
        entered = nodes[gains.argmax(0)]
        left = nodes[weights[:, nodes].argmax(1)]
        for arcs in (self._from, self._to):
            into, out = arcs[entered, every], arcs[every, left]
            arcs[first], arcs[:, first] = into, out
        weights[:, first] = weights[every, left]
        weights[first] = gains.max(0)
        weights[first, nodes] = -np.inf
        weights[:, rest] = -np.inf
        self._best[np.isin(self._best, nodes)] = first
        self._best[first] = weights[first].argmax()
        self._members[first] = set().union(*(self._members[node] for node in cycle))
        self._removed.update(rest)
        return first
