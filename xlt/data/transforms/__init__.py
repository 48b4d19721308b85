"""Transforms, which make the examples of a source from those of another one; `transform_of` finds the right one."""

from xlt.data.transforms.transform import Transform, transform_of

__all__ = ["Transform", "transform_of"]
