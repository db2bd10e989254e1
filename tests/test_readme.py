"""What the README says of keys, files and commands is so."""

import re
from pathlib import Path

import main
from utils.config import dotted_keys

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_every_file_it_names_exists():
    named = set(
        re.findall(
            r"`((?:commands|dataset|models|utils|tests|benchmarks|train_config|accelerate_config|evaluate_config)/[\w./]*)`",
            README,
        )
    )
    named |= set(re.findall(r"\]\(((?!http)[^)]+)\)", README))
    assert len(named) > 10
    assert not [name for name in named if not (Path(__file__).parent.parent / name).exists()]


def test_every_key_and_command_it_uses_exists():
    known = {key for command in main.COMMANDS for key in dotted_keys(main.schema_of(command))}
    names = "|".join({key.split(".")[0] for key in known})
    used = set(re.findall(rf"\b((?:{names})\.[a-zA-Z_]+)\b(?!\.py|\()", README))
    assert not {name for name in used - known if not name.endswith((".py", ".json", ".md", ".log"))}
    assert set(re.findall(r"main\.py (\w+)", README)) <= {*main.COMMANDS}


def test_no_placeholder_is_left():
    assert not re.findall(r"@[A-Z_]+@", README)
