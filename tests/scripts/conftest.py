"""Makes the scripts' own modules importable, as they are when a script is run; Triton's kernels are interpreted."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported
