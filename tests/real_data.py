"""Where real imagery and labels lie, which are not in the repository."""

from __future__ import annotations

import os
from pathlib import Path

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL_DATA = Path(os.environ.get("GEODETECT_DATA", _BESIDE))
"""The folder that the environment variable GEODETECT_DATA names, or the one beside the repository."""
