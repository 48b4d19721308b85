"""Source configs as tests make them."""

from __future__ import annotations

from typing import Any

from xlt.config import SourceConfig


def source_config(reader: str, language: str, path: str | None, **changes: Any) -> SourceConfig:
    """A source as `conf/source/_gold.yaml` has it, with what a test says of it."""
    values: dict[str, Any] = dict(files={}, hub=None, fields={}, codes={}, labels={}, licence=None)
    values |= dict(
        split="train", origin="gold", upsample=1, cap=None, cap_words=None, languages=[], where={}, instruction=None
    )
    values |= dict(scheme=None, word_prefix=None, delimiter=None, quoting=None, features={})
    values |= dict(text_language=None, pair_language=None, translation=None)
    return SourceConfig(reader=reader, language=language, path=path, **(values | changes))
