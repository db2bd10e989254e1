"""`python WORDS` as a fork of the server of the test that started it: FORK_SERVER is the number of its channel, an open file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.helpers.launch import Fork

program = Fork(*sys.argv[1:])
for line in program.stdout:
    print(line, end="", flush=True)
sys.exit(program.wait())
