"""docs/configuration.md says what the schemas say."""

from pathlib import Path

import main
from utils.config import dotted_keys


def test_the_page_is_what_the_command_writes(tmp_path):
    assert main.main(["configuration", f"configuration.out={tmp_path}/page.md"]) == 0
    written = (tmp_path / "page.md").read_text(encoding="utf-8")
    committed = Path("docs/configuration.md").read_text(encoding="utf-8")
    assert written == committed, "a key has changed: run `python main.py configuration`"


def test_the_page_has_every_key_of_every_command_in_a_table_of_five_columns():
    rows = [
        line for line in Path("docs/configuration.md").read_text(encoding="utf-8").splitlines() if line[:3] == "| `"
    ]
    keys = [row.split("`")[1] for row in rows if not row.startswith("| `--")]
    assert {key for command in main.COMMANDS for key in dotted_keys(main.schema_of(command))} == set(keys)
    assert all(row.replace(r"\|", "").count("|") == 6 for row in rows if not row.startswith("| `--"))
