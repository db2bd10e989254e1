"""What the README says of keys, files and commands is so."""

import json
import re
from pathlib import Path

import main
from utils.config import dotted_keys, sections
from utils.schemas import SCHEMAS, TrainConfig

README = (Path(__file__).parent.parent / "README.md").read_text()


FIELDS = {
    f"{name}.{key}": field for name, part in sections(TrainConfig).items() for key, field in part.model_fields.items()
}


def test_the_table_of_keys_is_the_schema():
    rows = dict(re.findall(r"^\| `((?!slurm)\w+\.\w+)` \| (.*)$", README, flags=re.MULTILINE))
    assert rows.keys() == FIELDS.keys()
    for key, field in FIELDS.items():
        default, unit, meaning = (cell.strip() for cell in rows[key].removesuffix("|").split("|"))
        assert default == ("required" if field.is_required() else f"`{json.dumps(field.default)}`"), key
        assert (unit, meaning) == (field.json_schema_extra["unit"], field.description), key


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
    known = {key for schema in SCHEMAS.values() for key in dotted_keys(schema)}
    names = "|".join({key.split(".")[0] for key in known})
    used = set(re.findall(rf"\b((?:{names})\.[a-zA-Z_]+)\b(?!\.py|\()", README))
    assert used - known <= {"run.log", "train.py", "render.py", "sample.json", "render.json"}, used - known
    assert set(re.findall(r"main\.py (\w+)", README)) <= {*main.COMMANDS}


def test_no_placeholder_is_left():
    assert not re.findall(r"@[A-Z_]+@", README)
