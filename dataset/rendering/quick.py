"""The renderer of plain pip: Embree's rays and numpy's shading, on one CPU core, without a display, a GPU or a system library."""

import importlib.util
import sys
from pathlib import Path

from utils.config import UserError

LIBRARIES = ("embreex", "trimesh", "numpy", "PIL")


def command(executable: str) -> list[str]:
    """How the worker starts, in this Python or, if `executable` names one, in another. Raises UserError when this one lacks a library."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing and not executable:
        raise UserError(
            f"the quick renderer needs {', '.join(missing)}: {sys.executable} -m pip install embreex trimesh"
        )
    return [executable or sys.executable, str(Path(__file__).with_name("quick_worker.py"))]
