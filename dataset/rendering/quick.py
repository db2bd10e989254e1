"""The renderer of plain pip: Embree's rays and numpy's shading, on one CPU core, without a display, a GPU or a system library."""

import importlib
import sys
from pathlib import Path

from utils.config import UserError


def command(executable: str) -> list[str]:
    """How the worker starts: in this Python, or in the one `executable` names. Raises UserError if this one lacks a library."""
    try:
        for name in () if executable else ("embreex.rtcore_scene", "trimesh"):
            importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"the quick renderer: {error}: {sys.executable} -m pip install embreex trimesh") from None
    return [executable or sys.executable, str(Path(__file__).with_name("quick_worker.py"))]
