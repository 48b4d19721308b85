"""What a user is told when a command cannot be carried out."""

from __future__ import annotations


class UsageError(ValueError):
    """What the user gave cannot be run. `lines`: one fault each; the command prints them and exits with 2."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(dict.fromkeys(" ".join(line.split()) for line in lines))
        super().__init__("\n".join(self.lines))
