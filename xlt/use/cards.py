"""The model card of a module: what it is, its data and scores, how it is used and cited."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xlt.errors import UsageError
from xlt.escapes import markdown_text
from xlt.files import DamagedFileError, read_sealed
from xlt.languages import language_fault, language_name
from xlt.plan.differences import differences
from xlt.plan.store import EVALUATION_FILE, MANIFEST_FILE
from xlt.repositories import REPOSITORY
from xlt.use.loading import FOLDER_DIGITS, UsedModule, task_of

_THESIS = (
    "Alan Ansell (2024). Efficient and Composable Adaptation for Cross-Lingual Transfer. PhD thesis, University of "
    "Cambridge."
)
_SPIEL = (
    "Alan Ansell, Ivan Vulić, Hannah Sterz, Anna Korhonen and Edoardo Ponti (2024). Scaling Sparse "
    "Fine-Tuning to Large Language Models. arXiv:2401.16405."
)
_PAPERS = {
    "bitfit": "Elad Ben Zaken, Yoav Goldberg and Shauli Ravfogel (2022). BitFit: Simple Parameter-efficient "
    "Fine-tuning for Transformer-based Masked Language-models. ACL.",
    "lt_sft": "Alan Ansell, Edoardo Ponti, Anna Korhonen and Ivan Vulić (2022). Composable Sparse Fine-Tuning for "
    "Cross-Lingual Transfer. ACL.",
    "mad_x": "Jonas Pfeiffer, Ivan Vulić, Iryna Gurevych and Sebastian Ruder (2020). MAD-X: An Adapter-Based Framework "
    "for Multi-Task Cross-Lingual Transfer. EMNLP.",
    "mad_g": "Alan Ansell, Edoardo Ponti, Jonas Pfeiffer, Sebastian Ruder, Goran Glavaš, Ivan Vulić and Anna Korhonen "
    "(2021). MAD-G: Multilingual Adapter Generation for Efficient Cross-Lingual Transfer. Findings of EMNLP.",
    "spiel_ag": _SPIEL,
    "spiel_ma": _SPIEL,
    "lora": "Edward Hu, Yelong Shen, Phillip Wallis, Zeyuan Allen-Zhu, Yuanzhi Li, Shean Wang, Lu Wang and Weizhu Chen "
    "(2022). LoRA: Low-Rank Adaptation of Large Language Models. ICLR.",
    "ia3": "Haokun Liu, Derek Tam, Mohammed Muqeeth, Jay Mohta, Tenghao Huang, Mohit Bansal and Colin Raffel (2022). "
    "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning. NeurIPS.",
}

_COUNTS = ("words",)
"""Metrics that say how much was scored, not how well."""


def model_card(used: UsedModule, repository: str) -> str:
    """Returns the card of a module in Markdown: what it is, its data and scores, and how it is used.

    It is made from the module's header and, if the module is in the folder of its run, from the files there.

    Args:
        used: the module.
        repository: ORG/NAME, for the commands.
    """
    parts = (_front_matter(used), _about(used), _data(used), _scores(used), _usage(used, repository), _citation(used))
    return "\n".join(line for part in parts for line in part) + "\n"


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
    elif header.task is None:
        what = "module without a task or a language"
    yield f"# {what[0].upper()}{what[1:]}"
    yield ""
    yield (
        f"This is a {what}, a small change of {_base(used)}, {_origin(used)}. It can be used with this base model and "
        f"no other: the hash of its weights is `{header.base_hash}`."
    )
    labels = [markdown_text(str(label)) for label in used.facts.get("labels") or ()]
    if labels:
        yield ""
        yield f"Its labels are {', '.join(labels)}."
    if header.fingerprint is not None:
        yield ""
        yield f"The run that made it has the fingerprint `{header.fingerprint}`."
    yield ""


def _origin(used: UsedModule) -> str:
    """Says whether training, another library or an operator on modules made it."""
    method, version = (markdown_text(str(one)) for one in (used.module.header.method, used.facts.get("xlt") or ""))
    if parts := used.facts.get("parts"):
        return f"computed from {len(parts)} other module{'s' * (len(parts) > 1)} with the operator `{method}` of xlt"
    if (library := used.facts.get("imported_from")) is not None:
        return f"of the method `{method}`, and converted from the format of {markdown_text(str(library))}"
    return f"learned with the method `{method}` by xlt {version}".rstrip()


def _base(used: UsedModule) -> str:
    """Names the base model. One that another run has made lies in a file whose name says nothing."""
    model = used.model_facts()
    made = (model.get("student") or {}).get("run") or model.get("run")
    if isinstance(made, Mapping) and made.get("experiment"):
        return f"the model that `xlt experiment={markdown_text(str(made['experiment']))}` makes"
    return f"the model `{markdown_text(used.module.header.base_model)}`"


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
        named = _named(str(source.get("language")))
        cells = [{"sources": "training"}.get(part, part), name, named, source.get("split"), source.get("origin")]
        licence = source.get("licence") or "not known"
        yield "| " + " | ".join(markdown_text(str(cell)) for cell in (*cells, licence)) + " |"
    yield ""


def _scores(used: UsedModule) -> Iterator[str]:
    records = _evaluations(used.path.parent) if used.manifest else []
    if not records:
        return
    others = {seed: _evaluations(folder) for seed, folder in _other_seeds(used).items()}
    seed = used.manifest.get("config", {}).get("seed")
    yield "## Scores"
    yield ""
    about = f"This is the run of seed {seed}; accuracies and F1 are in percent."
    if others:
        seeds = ", ".join(map(str, sorted([seed, *others])))
        about += f" The spread is the standard deviation over runs that differ only in their seed ({seeds})."
    else:
        about += " There is no run of another seed, so that the spread over seeds is not known."
    yield about
    yield ""
    yield "| data | language | modules in the model | scores | mean and spread over seeds |"
    yield "|---|---|---|---|---|"
    for record in sorted(records, key=lambda one: (str(one.get("source")), str(one.get("composition")))):
        metrics = ", ".join(_score(name, value) for name, value in record["metrics"].items())
        alike = [one for of_seed in others.values() for one in of_seed if _same_evaluation(one, record)]
        spread = ", ".join(_spreads([record, *alike])) if alike else "-"
        language = _named(str(record.get("language") or ""))
        cells = (record.get("source"), language, record.get("composition"), metrics, spread)
        yield "| " + " | ".join(markdown_text(str(cell)) for cell in cells) + " |"
    yield ""


def _spreads(records: list[Mapping[str, Any]]) -> Iterator[str]:
    for name in records[0]["metrics"]:
        values = [one["metrics"][name] for one in records if name in one["metrics"]]
        if len(values) > 1 and name not in _COUNTS:
            yield f"{name} {statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f} (n={len(values)})"


def _score(name: str, value: float) -> str:
    return f"{value:.0f} {name}" if name in _COUNTS else f"{name} {value:.2f}"


def _same_evaluation(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Returns whether two evaluations are on the same data and in the same way; their modules differ."""
    parts = ("source", "language", "composition")
    data = [(record.get("identity") or {}).get("source") for record in (one, other)]
    return data[0] is not None and data[0] == data[1] and all(one.get(part) == other.get(part) for part in parts)


def _evaluations(folder: Path) -> list[Mapping[str, Any]]:
    try:
        content = read_sealed(folder / EVALUATION_FILE)
    except DamagedFileError:
        return []
    return [one for one in content.values() if isinstance(one, Mapping) and isinstance(one.get("metrics"), Mapping)]


def _other_seeds(used: UsedModule) -> dict[int, Path]:
    """Returns seed -> folder of each run beside this one that differs from it only in its seed.

    Runs on which the two stand may differ only in their seeds, too.
    """
    own = used.path.absolute().parent
    kind, identity = used.manifest.get("kind"), used.manifest.get("identity") or {}
    folders = {}
    for folder in sorted(own.parent.glob("[!.]*")) if own.parent.name == "runs" else []:
        manifest = _manifest(folder) if folder != own else {}
        if manifest.get("kind") == kind and _only_seeds_differ(identity, manifest.get("identity") or {}, own.parent):
            folders[manifest["config"]["seed"]] = folder
    return folders


def _only_seeds_differ(one: Mapping[str, Any], other: Mapping[str, Any], runs: Path) -> bool:
    """Returns whether two identities differ in nothing but seeds, also those of the runs in the folder `runs`."""
    return bool(one) and all(
        difference.part == "settings.seed" or _runs_of_seeds(str(difference.mine), str(difference.other), runs)
        for difference in differences(one, other)
    )


def _runs_of_seeds(one: str, other: str, runs: Path) -> bool:
    """Returns whether two texts are fingerprints of stored runs that differ only in their seeds."""
    names, languages = zip(*(text.partition("/")[::2] for text in (one, other)), strict=True)
    if languages[0] != languages[1] or not all(re.fullmatch("[0-9a-f]{12,}", name) for name in names):
        return False
    first, second = (_manifest(runs / name[:FOLDER_DIGITS]).get("identity") or {} for name in names)
    return bool(second) and _only_seeds_differ(first, second, runs)


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return read_sealed(folder / MANIFEST_FILE)
    except DamagedFileError:
        return {}


def _usage(used: UsedModule, repository: str) -> Iterator[str]:
    language = used.module.header.language
    yield "## Use"
    yield ""
    yield "```sh"
    command, example = _of_task(used)
    if language is None and used.module.header.task is None:
        yield f"xlt predict TASK_MODULE {repository} --language CODE --input text.txt --output annotated.jsonl"
    elif language is None:
        yield f"xlt predict {repository} --model BASE_MODEL {command}"
    else:
        yield f"xlt predict TASK_MODULE {repository} --language {language} --input text.txt --output annotated.jsonl"
        yield f"xlt experiment=pos +language_modules.paths.{language}={repository} model.path=BASE_MODEL ..."
    yield "```"
    yield ""
    yield "In Python:"
    yield ""
    yield "```python"
    yield "import xlt"
    if language is None and used.module.header.task is not None:
        yield ""
        several = ', task="TASK"' if "--task" in command else ""
        yield f'model = xlt.load_model("{repository}", model="BASE_MODEL"{several})'
        yield f"xlt.predict(model, [{example}])"
    else:
        yield "from xlt.models.loading import load_pretrained"
        yield ""
        yield 'stack = xlt.ModuleStack(load_pretrained("BASE_MODEL"))'
        yield f'stack.set([xlt.load_module("{repository}")])'
    yield "```"
    yield ""
    yield f"`{repository}@REVISION` names a branch, a tag or a commit; without it, the newest version is loaded."
    yield ""


def _of_task(used: UsedModule) -> tuple[str, str]:
    """Returns the options of `xlt predict` with which a task module annotates, and an example for `xlt.predict`."""
    stored = used.facts.get("task")
    parts = stored.get("tasks") if isinstance(stored, Mapping) else None
    several = "--task TASK " if isinstance(parts, Mapping) and len(parts) > 1 else ""
    try:
        task = task_of(used, next(iter(parts)) if several and parts else None)
    except UsageError:  # of an old version, or of a plug-in that is not installed
        return "--task TASK --input text.txt --output annotated.jsonl", '"A text."'
    into = "--into CODE " if task.translates else ""
    if "pair" not in task.reads:
        ending = "conllu" if "words" in task.reads else "jsonl"
        return f"{several}{into}--input text.txt --output annotated.{ending}", '"A text."'
    choices = ', "choices": ["One.", "Another."]' if "choices" in task.reads else ""
    example = f'{{"text": "A text.", "pair": "Another."{choices}}}'
    return f"{several}{into}--input examples.jsonl --output annotated.jsonl", example


def _citation(used: UsedModule) -> Iterator[str]:
    yield "## Citation"
    yield ""
    yield f"- {_THESIS}"
    if (paper := _PAPERS.get(used.module.header.method)) is not None:
        yield f"- {paper}"


def _named(code: str) -> str:
    """Returns name and code of a language."""
    return f"{language_name(code)} ({code})" if _known(code) else code


def _known(code: Any) -> bool:
    return isinstance(code, str) and language_fault(code) is None
