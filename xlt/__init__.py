"""Cross-lingual transfer with composable, parameter-efficient modules."""

__version__ = "0.1.0"
