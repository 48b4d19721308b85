"""Uploads a module to the Hugging Face hub, with a model card."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xlt.engine.run import MODULE_FILE
from xlt.errors import UsageError
from xlt.escapes import markdown_text
from xlt.files import DamagedFileError, atomic_text, read_sealed
from xlt.languages import language_fault, language_name
from xlt.plan.store import EVALUATION_FILE
from xlt.use.loading import UsedModule, read_module
from xlt.use.repositories import REPOSITORY

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
        shutil.copyfile(used.path, Path(folder) / MODULE_FILE)
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


def model_card(used: UsedModule, repository: str) -> str:
    """Returns the card of a module in Markdown: what it is, its data and scores, and how it is used.

    It is made from the module's header and, if the module is in the folder of its run, from the files there.

    Args:
        used: the module.
        repository: ORG/NAME, for the commands.
    """
    return (
        "\n".join([*_front_matter(used), *_about(used), *_data(used), *_scores(used), *_usage(used, repository)]) + "\n"
    )


def _front_matter(used: UsedModule) -> Iterator[str]:
    header = used.module.header
    languages = (
        [header.language] if header.language else [code for code in used.facts.get("languages") or () if _known(code)]
    )
    yield "---"
    yield "library_name: xlt"
    base = used.model_facts().get("path")
    if isinstance(base, str) and REPOSITORY.fullmatch(base) and not Path(base).exists():
        yield f"base_model: {base}"
    if languages:
        yield f"language: {json.dumps(sorted({str(code).partition('_')[0] for code in languages}))}"
    yield f"tags: {json.dumps(['cross-lingual-transfer', header.kind, header.method])}"
    yield "---"
    yield ""


def _about(used: UsedModule) -> Iterator[str]:
    header = used.module.header
    what = f"task module for `{markdown_text(str(header.task))}`"
    if header.language is not None:
        what = f"language module for {language_name(header.language)} (`{header.language}`)"
    yield f"# {what[0].upper()}{what[1:]}"
    yield ""
    yield (
        f"This is a {what}, a small change of the model `{markdown_text(header.base_model)}`, learned with the method "
        f"`{markdown_text(header.method)}` by xlt {markdown_text(str(used.facts.get('xlt', '')))}. It can be used with "
        f"this base model and no other: the hash of its weights is `{header.base_hash}`."
    )
    labels = [markdown_text(str(label)) for label in used.facts.get("labels") or ()]
    if labels:
        yield ""
        yield f"Its labels are {', '.join(labels)}."
    if header.fingerprint is not None:
        yield ""
        yield f"The run that made it has the fingerprint `{header.fingerprint}`."
    yield ""


def _data(used: UsedModule) -> Iterator[str]:
    data = used.manifest.get("config", {}).get("data", {})
    rows = [
        (part, name, source) for part in ("sources", "validation") for name, source in (data.get(part) or {}).items()
    ]
    if not rows:
        return
    yield "## Data"
    yield ""
    yield "| use | source | language | split | origin | licence |"
    yield "|---|---|---|---|---|---|"
    for part, name, source in rows:
        language = str(source.get("language"))
        named = f"{language_name(language)} ({language})" if _known(language) else language
        cells = [{"sources": "training"}.get(part, part), name, named, source.get("split"), source.get("origin")]
        licence = source.get("licence") or "not known"
        yield "| " + " | ".join(markdown_text(str(cell)) for cell in (*cells, licence)) + " |"
    yield ""


def _scores(used: UsedModule) -> Iterator[str]:
    records = _evaluations(used)
    if not records:
        return
    yield "## Scores"
    yield ""
    seed = used.manifest.get("config", {}).get("seed")
    yield f"Of one run (seed {seed}); accuracies and F1 are in percent. One run does not tell the spread over seeds."
    yield ""
    yield "| data | language | modules in the model | scores |"
    yield "|---|---|---|---|"
    for record in sorted(records, key=lambda one: (str(one.get("source")), str(one.get("composition")))):
        metrics = ", ".join(f"{name} {value:.2f}" for name, value in record["metrics"].items())
        cells = (record.get("source"), record.get("language", ""), record.get("composition"), metrics)
        yield "| " + " | ".join(markdown_text(str(cell)) for cell in cells) + " |"
    yield ""


def _evaluations(used: UsedModule) -> list[Mapping[str, Any]]:
    if not used.manifest:
        return []
    try:
        content = read_sealed(used.path.parent / EVALUATION_FILE)
    except DamagedFileError:
        return []
    return [one for one in content.values() if isinstance(one, Mapping) and isinstance(one.get("metrics"), Mapping)]


def _usage(used: UsedModule, repository: str) -> Iterator[str]:
    language = used.module.header.language
    yield "## Use"
    yield ""
    yield "```sh"
    if language is None:
        yield f"xlt predict {repository} --model BASE_MODEL --input text.txt --output annotated.conllu"
    else:
        yield f"xlt predict TASK_MODULE {repository} --language {language} --input text.txt --output annotated.conllu"
    yield "```"


def _known(code: Any) -> bool:
    return isinstance(code, str) and language_fault(code) is None
