"""`main.py configuration`: writes the page of all keys from the schemas."""

from itertools import groupby
from pathlib import Path

from main import COMMANDS, schema_of
from utils.config import Key, Section, keys_of
from utils.files import write_atomically
from utils.schemas import ConfigurationConfig, TrainConfig

INTRODUCTION = Path(__file__).with_name("configuration_page.md")
TABLE_HEAD = "| key | type | default | unit | meaning |\n|---|---|---|---|---|"


def configuration(cfg: ConfigurationConfig) -> None:
    out = Path(cfg.configuration.out)
    write_atomically(out, page())
    print(out)


def page() -> str:
    """Return the whole page as Markdown: the introduction, then a part for each schema."""
    commands: dict[type[Section], list[str]] = {}
    for command in COMMANDS:
        commands.setdefault(schema_of(command), []).append(command)
    parts = [_part(names, schema) for schema, names in commands.items()]
    return "\n\n".join([INTRODUCTION.read_text(encoding="utf-8").strip(), *parts]) + "\n"


def _part(commands: list[str], schema: type[Section]) -> str:
    """Return the part on the keys that `commands` share, with a table for each section that `train` has not."""
    shared = set(keys_of(TrainConfig)) if schema is not TrainConfig and issubclass(schema, TrainConfig) else set()
    own = [key for key in keys_of(schema) if key not in shared]
    tables = [
        "\n".join([TABLE_HEAD, *map(_row, keys)])
        for _, keys in groupby(own, key=lambda key: key.name.partition(".")[0])
    ]
    lines = ["It takes the keys of `train` too."] if shared else []
    return "\n\n".join(["## " + " and ".join(f"`{command}`" for command in commands), *lines, *tables])


def _row(key: Key) -> str:
    default = key.default if key.default == "required" else f"`{key.default}`"
    cells = (f"`{key.name}`", key.type.replace("|", r"\|"), default, key.unit, key.meaning)
    return "| " + " | ".join(cells) + " |"
