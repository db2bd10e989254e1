"""Starting the program as a user does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "PYTEST_"))}


def accelerate_launch(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess:
    """Run `python -m accelerate.commands.launch ARGUMENTS` in the project's folder. Its stdout holds stderr too."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
    )
