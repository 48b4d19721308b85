"""Transforms make a source's examples out of those of another source; `transform_of` is the one way to them."""

from xlt.data.transforms.transform import Transform, transform_of

__all__ = ["Transform", "transform_of"]
