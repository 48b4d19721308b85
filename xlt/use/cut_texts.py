"""Counts texts that are longer than a task reads, so that a score or a label is of their beginning alone."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.escapes import say
from xlt.tasks.task import Task

_NO_LIMIT = 1 << 30  # tokens
# Of a row of a task that cuts a long text into windows, or that refuses or gives up long prompts: nothing is lost.
_LOSES_NOTHING = ("window", "prompt")


@dataclass
class CutTexts:
    """Counts examples that have more tokens than the task's `max_length`.

    Attributes:
        examples: number of examples that were looked at.
        cut: number of those that lose tokens.
        place: of the first of them.
        limit: the task's `max_length`, in tokens.
    """

    examples: int = 0
    cut: int = 0
    place: str = ""
    limit: int = 0

    def look_at(self, task: Task, examples: Sequence[Example], rows: Sequence[Features], encoder: Encoder) -> None:
        """Counts examples.

        Args:
            task: that made the rows.
            examples: with their labels, or with placeholders for them.
            rows: the task's features of the examples.
            encoder: the tokenizer.
        """
        self.examples += len(examples)
        limit = getattr(task, "max_length", None)
        if limit is None or not task.compares or any(key in row for row in rows[:1] for key in _LOSES_NOTHING):
            return
        lengths = _lengths(rows)
        full = [at for at in sorted(lengths) if lengths[at] >= limit]  # only these can be cut
        whole = copy.copy(task)
        whole.max_length = _NO_LIMIT
        uncut = _lengths(whole.features([examples[at] for at in full], encoder)) if full else {}
        cut = [at for number, at in enumerate(full) if uncut[number] > lengths[at]]
        self.limit = limit
        self.cut += len(cut)
        if cut and not self.place:
            self.place = examples[cut[0]].place

    def say(self) -> None:
        """Prints a line if there are such texts."""
        if self.cut:
            count, limit = f"{self.cut:,} of {self.examples:,} examples", f"task.max_length={self.limit}"
            say(f"xlt: {count} have more than {limit} tokens and lose some, first {self.place}")


def _lengths(rows: Sequence[Features]) -> Counter[int]:
    """Returns number of an example -> tokens of all its rows; a row without `example` is all of one."""
    lengths: Counter[int] = Counter()
    for at, row in enumerate(rows):
        lengths[row.get("example", at)] += len(row["input_ids"])
    return lengths
