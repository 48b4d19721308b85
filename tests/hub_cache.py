"""A cache of the Hugging Face hub as `huggingface_hub` writes it, filled with repositories that a test makes up."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path


class HubCache:
    """The folder of the cache.

    Args:
        folder: empty or new.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, repository: str, files: Mapping[str, Path | bytes], revision: str = "main") -> str:
        """Adds a commit to a repository, named by a branch or tag; returns its 40 digits.

        Args:
            repository: ORG/NAME.
            files: name -> content, or file that is copied.
            revision: branch or tag that points to the commit from now on.
        """
        place = self.folder / f"models--{repository.replace('/', '--')}"
        contents = {name: part if isinstance(part, bytes) else part.read_bytes() for name, part in files.items()}
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        commit = hashlib.sha1(repr(sorted(digests.items())).encode(), usedforsecurity=False).hexdigest()
        for part in ("blobs", "refs", f"snapshots/{commit}"):
            (place / part).mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (place / "blobs" / digests[name]).write_bytes(content)
            link = place / "snapshots" / commit / name
            if not link.exists():
                link.symlink_to(Path("../../blobs") / digests[name])
        (place / "refs" / revision).write_text(commit, encoding="utf-8")
        return commit
