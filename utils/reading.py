"""Reading YAML and JSON that anyone may have written. Sizes are limited, and one error names all mistakes."""

import json
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from utils.errors import UserError, cut, shown
from utils.files import leaves_folder, open_file

MAX_YAML_BYTES = 1 << 14  # a longer one can take seconds to read
MAX_YAML_DEPTH = 32
MAX_YAML_ALIASES = 16  # an alias may repeat others, so a hundred of them could fill any memory
MAX_JSON_BYTES = 1 << 28
MAX_MISTAKES = 8  # the most that one error names


class Saved(BaseModel):
    """The base class of what we read from JSON files. Types are strict, numbers are finite, and unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False, protected_namespaces=())


def _inside(path: str) -> str:
    if not path or "\0" in path or leaves_folder(path):
        raise ValueError("must be a path inside the folder")
    return path


InsidePath = Annotated[str, AfterValidator(_inside)]  # for a Saved's field that names a file in the same folder

# What ruamel.yaml raises beside its own errors: a ValueError for the date 2024-13-45, an IndexError for `!!int ""`.
_YAML_SLIPS = (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError)
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
Schema = TypeVar("Schema", bound=BaseModel)


def read_json(path: Path, schema: type[Schema]) -> Schema:
    """Read the JSON object in a file. Raises UserError naming the file, and each key that is missing or of another type."""
    return parse_json(_read(path, MAX_JSON_BYTES), schema, str(path))


def parse_json(data: bytes, schema: type[Schema], place: str) -> Schema:
    """Return the JSON object in `data`. Raises UserError as read_json does, beginning with `place`."""
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        raise UserError(f"{place}: {mistakes([explain(item) for item in error.errors(include_url=False)])}") from None


def explain(item: dict) -> str:
    """Say one of the mistakes that pydantic found in our words."""
    name = cut(".".join(str(part) for part in item["loc"]))
    if item["type"] == "json_invalid":
        return f"cannot be read: {item['msg']}"
    if item["type"] == "missing":
        return f"{name}: missing"
    if item["type"] == "value_error":
        return f"{name}: {item['ctx']['error']}" if name else str(item["ctx"]["error"])
    return f"{name or 'content'}: {item['msg'][0].lower()}{item['msg'][1:]}, found {shown(item['input'])}"


def mistakes(found: list[str]) -> str:
    rest = len(found) - MAX_MISTAKES
    return "; ".join(found[:MAX_MISTAKES]) + (f"; and {rest} more" if rest > 0 else "")


def read_yaml(path: Path) -> dict:
    """Read the sections of a YAML file. Raises UserError with file:line."""
    try:
        text = _read(path, MAX_YAML_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: cannot be read: not UTF-8 text") from None
    raw = parse_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected sections with keys, found {type(raw).__name__}")
    return raw


def parse_yaml(text: str, place: str) -> object:
    """Parse YAML 1.2, in which 1e-5 is a number, `no` is a word and 1:30 is a text. A key written twice is an error.

    Raises UserError, beginning with `place`.
    """
    try:
        return _parse_yaml(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise UserError(f"{place}:{mark.line + 1 if mark else 1}: {cut(' '.join(problem.split()))}") from None
    except _YAML_SLIPS as error:
        raise UserError(f"{place}: not valid YAML: {cut(str(error))}") from None


def _parse_yaml(text: str) -> object:
    if len(text) > MAX_YAML_BYTES:
        raise ValueError(f"it is longer than {MAX_YAML_BYTES >> 10} KiB")
    depth = aliases = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        aliases += isinstance(event, AliasEvent)
        if depth > MAX_YAML_DEPTH:
            raise ValueError(f"it is nested more than {MAX_YAML_DEPTH} deep")
        if aliases > MAX_YAML_ALIASES:
            raise ValueError(f"it has more than {MAX_YAML_ALIASES} aliases (*name)")
    return YAML(typ="safe", pure=True).load(text)


def parse_json_line(line: bytes, place: str) -> object:
    """Parse one line of a jsonl. Raises UserError naming `place`.

    pydantic's parser takes a quarter of the time, and refuses some of what json reads; json has the last word.
    """
    try:
        return from_json(line, cache_strings=False)
    except ValueError:
        pass
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{place}: not UTF-8 text" + _perhaps_utf16(line)) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON: {error}" + _perhaps_utf16(line)) from None


def _perhaps_utf16(line: bytes) -> str:
    return "; it looks like UTF-16, save it as UTF-8" if b"\0" in line or line[:2] in _UTF16_MARKS else ""


def _read(path: Path, max_bytes: int) -> bytes:
    """Read a whole file, without the mark with which some editors begin UTF-8."""
    with open_file(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise UserError(f"{path}: is larger than {max_bytes >> 10:,} KiB, which cannot be meant")
    return data.removeprefix(b"\xef\xbb\xbf")
