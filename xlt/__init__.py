"""Cross-lingual transfer with composable, parameter-efficient modules."""

from xlt.python_names import __getattr__ as __getattr__

__version__ = "0.1.0"
