"""Uploads a module to the Hugging Face hub, with a model card."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from xlt.errors import UsageError
from xlt.files import atomic_text
from xlt.repositories import REPOSITORY, REPOSITORY_FILE
from xlt.use.cards import model_card
from xlt.use.loading import read_module

CARD = "README.md"


def push_to_hub(path: str, repository: str, *, private: bool = False) -> str:
    """Uploads a module with its card; returns the address.

    Args:
        path: module file, or folder of a run.
        repository: ORG/NAME; it is made if it does not exist.
        private: whether a new repository is private.
    Raises:
        UsageError, ModuleFileError: the module is unusable, or the hub refuses the upload.
    """
    from huggingface_hub import HfApi

    if REPOSITORY.fullmatch(repository) is None or "@" in repository:
        raise UsageError(f"--output={repository}: must be the name of a repository, ORG/NAME")
    used = read_module(path)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(used.path, Path(folder) / REPOSITORY_FILE)
        with atomic_text(Path(folder) / CARD) as card:
            card.write(model_card(used, repository))
        try:
            api = HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Module of xlt, with its card")
        except Exception as error:
            line = str(error).strip().split("\n")[0]
            raise UsageError(f"--output={repository}: the hub refuses the upload: {line}") from error
    return f"https://huggingface.co/{repository}"
