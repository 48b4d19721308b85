"""Names of before, and those that have taken their place."""

from __future__ import annotations

_KEYS = {
    f"train.{name}": f"method.{name}"
    for name in (
        "density",
        "reduction_factor",
        "l1",
        "freeze_layer_norm",
        "dense_epochs",
        "dense_max_steps",
        "dense_learning_rate",
    )
}
_OPTIONS = {
    "experiment": {"pos_lt_sft": "pos", "mad_g": "generator", "nano_mad_g": "nano_generator"},
    "language_modules": {"sentence_mono_mini": "mono", "sentence_mono_thesis": "mono"},
}
_RECIPES = {
    "tagging_mini": "pos",
    "tagging_thesis": "pos",
    "tagging_nano": "nano_fields",
    **{f"{name}_nano": f"nano_{name}" for name in ("language", "generator", "distil", "pretrain")},
    "translation_pretrain": "translation_pretrain",
}


def renamed(word: str) -> str | None:
    """What to write in the place of an override with an old name; None if its name is not an old one.

    Args:
        word: as on the command line, `KEY=VALUE` or `GROUP=OPTION`.
    """
    name, _, value = word.lstrip("+~").partition("=")
    if name == "train":
        return f"train={value} is recipe={_recipe(value)} now; an experiment chooses its own, so it need not be given"
    if (key := renamed_key(name)) is not None:
        return f"{name} is {key} now, a setting of the methods that have one; write {key}={value}"
    if (option := _OPTIONS.get(name, {}).get(value)) is not None:
        return f"{value} is {option} now; write {name}={option}"
    return None


def renamed_key(name: str) -> str | None:
    """The key, or config group, that has taken the place of an old one."""
    return "recipe" if name == "train" else _KEYS.get(name)


def _recipe(option: str) -> str:
    return _RECIPES.get(option) or option.removesuffix("_mini").removesuffix("_thesis")


RENAMED_TABLES: dict[str, str] = {}
"""Old name after `table=` or `figure=` -> what to write now."""
