"""`python WORDS` as a fork of the server whose address is FORK_SERVER in the environment."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.helpers.launch import Fork

program = Fork(*sys.argv[1:])
for line in program.stdout:
    print(line, end="", flush=True)
sys.exit(program.wait())
