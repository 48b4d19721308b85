"""Cross-lingual transfer with composable, parameter-efficient modules."""

from time import time_ns

from xlt.python_names import __getattr__ as __getattr__

__version__ = "0.1.0"

LOADED_NS = time_ns()
"""When this process began to read the code of xlt, in nanoseconds since 1970: files that changed later may not be what
it executes."""
