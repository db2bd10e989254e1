"""The folders step_XXXXXXX of a run, which its checkpoints and its validations are."""

import re
from pathlib import Path


def step_folder(parent: Path, step: int) -> Path:
    return parent / f"step_{step:07d}"


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def step_folders(parent: Path) -> list[Path]:
    """Return those in `parent`, in the order of their steps. What a user put beside them is left out."""
    found = parent.glob("step_*")
    return sorted((path for path in found if re.fullmatch(r"step_\d{7,}", path.name)), key=step_of)
