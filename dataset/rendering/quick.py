"""The renderer of plain pip: Embree's rays and numpy's shading, on one CPU core, without a display, a GPU or a system library."""

import importlib.util
import sys
from pathlib import Path

from utils.config import UserError


def command(executable: str) -> list[str]:
    """How the worker starts: in this Python, or in the one `executable` names. Raises UserError if this one lacks a library."""
    missing = [name for name in ("embreex", "trimesh") if importlib.util.find_spec(name) is None]
    if missing and not executable:
        raise UserError(
            f"the quick renderer needs {' and '.join(missing)}: {sys.executable} -m pip install {' '.join(missing)}"
        )
    return [executable or sys.executable, str(Path(__file__).with_name("quick_worker.py"))]
