"""The production renderer: Blender's Cycles, on CPU or GPU, in a Python of its own, where worker.py runs."""

import shutil
import subprocess
from pathlib import Path

from utils.errors import UserError

INSTALL = "python3.11 -m venv .venv-blender && .venv-blender/bin/pip install bpy==4.5.15"
_WORKER = Path(__file__).with_name("worker.py")
_ENVIRONMENT = Path(__file__).parents[2] / ".venv-blender/bin/python"
_PYTHONS = ("python3.11", "python3.13")  # a bpy was made for these: 4.2 to 4.5, and 5.1
_LIBRARY = "cannot open shared object file"
_PROBE_S = 120  # a first import from a cold network disk


def command(executable: str | None) -> list[str]:
    """Return the command to which a job's file is appended. Raises UserError if there is none.

    `executable` is a blender, or a Python that has bpy, which is told by its name (python...). None looks for one: `blender` on
    the PATH, the folder .venv-blender, then a python3.11 or python3.13.
    """
    if executable:
        fault = _fault(executable)
        if fault:
            raise UserError(f"render.executable: {executable}: {fault}; {_remedy(fault)}")
        return _prefix(executable)
    faults = []
    for candidate in ("blender", str(_ENVIRONMENT), *_PYTHONS):
        if found := shutil.which(candidate):
            fault = _fault(found)
            if not fault:
                return _prefix(found)
            # That a Python has no bpy needs no mention.
            if candidate not in _PYTHONS or _LIBRARY in fault:
                faults.append(f"{found}: {fault}")
    tried = f" ({'; '.join(faults)})" if faults else ""
    raise UserError(f"no Blender found{tried}; {_remedy(tried)}")


def _prefix(executable: str) -> list[str]:
    if _is_python(executable):
        return [executable, str(_WORKER)]
    options = ["--background", "--factory-startup", "--python-exit-code", "1"]
    return [executable, *options, "--python", str(_WORKER), "--"]


def _is_python(executable: str) -> bool:
    return Path(executable).name.lower().startswith("python")


def _fault(executable: str) -> str:
    """Return why it cannot render, or nothing."""
    probe = ["-c", "import bpy"] if _is_python(executable) else ["--version"]
    try:
        answer = subprocess.run(
            [executable, *probe], capture_output=True, text=True, errors="replace", timeout=_PROBE_S
        )
    except OSError as error:
        return f"cannot be started: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"no answer for {_PROBE_S} s"
    if answer.returncode == 0:
        return ""
    lines = answer.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {answer.returncode}"


def _remedy(fault: str) -> str:
    if _LIBRARY in fault:
        return "a system library is missing: docs/rendering.md has a list for apt-get"
    return f"`{INSTALL}` makes an environment for it"
