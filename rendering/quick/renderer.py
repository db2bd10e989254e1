"""The renderer that pip alone installs: Embree's rays and numpy's shading, without GPU, display or system library."""

import sys
from pathlib import Path

from utils.errors import UserError


def command(executable: str | None) -> list[str]:
    """Return how the worker starts, which is in this Python. Raises UserError if it lacks a library, or for an `executable`."""
    try:
        import embreex.rtcore_scene  # noqa: F401
        import trimesh  # noqa: F401
    except ImportError as error:
        raise UserError(f"the quick renderer: {error}: {sys.executable} -m pip install embreex trimesh") from None
    if executable:
        raise UserError(f"render.executable: '{executable}' is without effect: the quick renderer runs in this Python")
    return [sys.executable, str(Path(__file__).with_name("worker.py"))]
