"""What a config is, and how it is loaded from a YAML and `section.key=value` words. The commands' keys are in utils/schemas*.py.

A config is frozen and complete: an unknown key, a wrong type and a missing value are errors, all reported at once.
"""

import difflib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML

from utils.errors import UserError, cut, shown
from utils.files import user_path
from utils.reading import explain, mistakes, parse_yaml, read_yaml


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


def key(default, text: str, unit: str = "", **limits):
    """Declare a config key: its default (`...` means required), its line of help, its unit, and pydantic's limits (ge, lt)."""
    return Field(default, description=text, json_schema_extra={"unit": unit}, **limits)


def sections(schema: type[Section]) -> dict[str, type[Section]]:
    return {name: field.annotation for name, field in schema.model_fields.items()}


def dotted_keys(schema: type[Section]) -> list[str]:
    """Return every section.key of a config."""
    return [f"{name}.{field}" for name, section in sections(schema).items() for field in section.model_fields]


class Key(NamedTuple):
    """What the help and docs/configuration.md say of a config key."""

    name: str  # section.key
    type: str
    default: str  # as JSON, or "required"
    unit: str
    meaning: str


def keys_of(schema: type[Section]) -> list[Key]:
    keys = []
    for name, section in sections(schema).items():
        properties = section.model_json_schema()["properties"]
        for field_name, field in section.model_fields.items():
            default = "required" if field.is_required() else json.dumps(field.default)
            type_ = _type_name(properties[field_name])
            unit = field.json_schema_extra["unit"]
            keys.append(Key(f"{name}.{field_name}", type_, default, unit, field.description))
    return keys


def describe(schema: type[Section]) -> str:
    """Return the help of a command: two lines for each of its keys."""
    rows = [
        f"  {key.name}: {key.type} = {key.default}" + (f" [{key.unit}]" if key.unit else "") + f"\n      {key.meaning}"
        for key in keys_of(schema)
    ]
    return "keys, as `section:` and `key:` in the YAML or as section.key=value:\n" + "\n".join(rows)


def _type_name(spec: dict) -> str:
    if "anyOf" in spec:
        return " | ".join(_type_name(option) for option in spec["anyOf"])
    if "enum" in spec:
        return " | ".join(spec["enum"])
    return {"array": "list", "number": "float", "integer": "int", "string": "text", "boolean": "true | false"}.get(
        spec["type"], spec["type"]
    )


def load_config(schema: type[Section], arguments: list[str]) -> Section:
    """Return the validated config of `[FOLDER] [CONFIG.yaml] [section.key=value ...]`. A folder is the command's `checkpoint`.

    In files and folders `~` is the home folder. Raises UserError with all mistakes.
    """
    raw = {}
    source = "command line"
    for word in arguments:
        if word.startswith("-") and "=" not in word:  # it is no folder or YAML, and what follows it is not its value
            raise UserError(f"{shown(word)}: expected section.key=value")
    taker = next((name for name, section in sections(schema).items() if "checkpoint" in section.model_fields), None)
    if taker and arguments and (os.path.isdir(arguments[0]) or not re.search(r"=|\.ya?ml$", arguments[0])):
        arguments = [*arguments[1:], f"{taker}.checkpoint={arguments[0]}"]
    if arguments and "=" not in arguments[0]:
        source = arguments[0]
        arguments = arguments[1:]
        raw = read_yaml(Path(source))
    for word in arguments:
        _override(schema, raw, word)
    try:
        # It goes through JSON, so that pydantic's strict mode takes a list for a tuple but no "3", true or 3.0 for a 3.
        # A YAML date becomes a text, since a name may look like a date.
        text = json.dumps(raw, default=str)
    except (TypeError, ValueError, RecursionError) as error:  # a key that is no text, or an alias of itself
        raise UserError(f"{source}: not a config: {cut(str(error))}") from None
    given = json.loads(text)
    _check_texts(given, source)
    _expand_homes(schema, given)
    try:
        return schema.model_validate_json(json.dumps(given))
    except ValidationError as error:
        found = [_explain(schema, item) for item in error.errors(include_url=False)]
        raise UserError(f"{source}: {mistakes(found)}") from None


def to_json(cfg: Section) -> dict:
    """Return the resolved config as plain dicts, lists and numbers, under the names of the YAML."""
    return cfg.model_dump(mode="json")


def to_yaml(cfg: Section, stream) -> None:
    """Write the resolved config, so that loading it gives the same config."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.dump(to_json(cfg), stream)


def _override(schema: type[Section], raw: dict, word: str) -> None:
    """Put `section.key=value` into `raw`. `--section.key=value` is the same, since sweeps of hyperparameters write it so."""
    name, equals, text = word.removeprefix("--").partition("=")
    section, dot, field = name.partition(".")
    if not (equals and dot and section and field):
        raise UserError(f"{shown(word)}: expected section.key=value")
    if not isinstance(raw.setdefault(section, {}), dict):
        raise UserError(f"{section}: expected keys, found {shown(raw[section])}")
    known = sections(schema).get(section)
    if known is not None and field in known.model_fields and known.model_fields[field].annotation in (str, str | None):
        raw[section][field] = None if text == "null" else text  # a text stays as it was typed, 001 included
        return
    try:
        raw[section][field] = parse_yaml(text, name)
    except UserError:
        raise UserError(f"{cut(name)}: {shown(text)} is not a YAML value") from None


def _check_texts(value: object, source: str, keys: tuple[str, ...] = ()) -> None:
    """Raises UserError, naming the key, if a text cannot be a path, or if a terminal that it is printed on would obey it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_texts(key, source, keys)
            _check_texts(inner, source, (*keys, cut(key)))
    elif isinstance(value, list):
        for inner in value:
            _check_texts(inner, source, keys)
    elif isinstance(value, str) and re.search("[\0-\x1f\x7f-\x9f\ud800-\udfff]", value):
        raise UserError(f"{source}: {'.'.join(keys)}: {shown(value)} holds a control character, or half a character")


def _expand_homes(schema: type[Section], given: dict) -> None:
    """Write out the home folder in every key that is a file or a folder, but for a default: a run's config keeps that as it is.

    Raises UserError if there is no such user.
    """
    for name, section in sections(schema).items():
        values = given.get(name)
        for field_name, field in section.model_fields.items():
            value = values.get(field_name) if isinstance(values, dict) else None
            is_place = re.search("file|folder", field.json_schema_extra["unit"])
            if is_place and isinstance(value, str) and value.startswith("~") and value != field.default:
                values[field_name] = str(user_path(value))


def _explain(schema: type[Section], item: dict) -> str:
    if item["type"] == "extra_forbidden":
        name = cut(".".join(str(part) for part in item["loc"]))
        candidates = dotted_keys(schema) if "." in name else list(sections(schema))
        nearest = difflib.get_close_matches(name, candidates, n=1, cutoff=0.4)
        return f"{name}: unknown key" + (f"; did you mean {nearest[0]}?" if nearest else "")
    return explain(item)
