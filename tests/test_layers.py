"""Who may import whom, read from the imports and held by folder."""

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.launch import ROOT

MAY_IMPORT = {  # beside itself
    "commands": {"training", "rendering", "evaluation", "dataset", "models", "utils"},
    "training": {"evaluation", "dataset", "models", "utils"},
    "evaluation": {"dataset", "models", "utils"},
    "rendering": {"utils"},
    "dataset": {"utils"},
    "models": {"utils"},
    "utils": set(),
}
ONLY_IN = {  # the heavy packages, and the rooms that may see them
    "accelerate": {"training"},
    "deepspeed": {"training"},
    "diffusers": {"models", "commands"},
    "peft": {"models"},
    "transformers": {"models", "commands", "evaluation"},
}
INSIDE_FUNCTIONS = {
    "deepspeed", "peft", "wandb", "tensorboard", "imageio_ffmpeg", "lpips", "moviepy", "pyarrow", "gradio", "fastapi", "uvicorn",
}  # fmt: skip
SOURCES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes if isinstance(node, ast.ImportFrom)}


def packages(path: Path, top_level_only: bool = False) -> set[str]:
    return {module.split(".")[0] for module in imports(path, top_level_only)}


def modules_below(path: Path) -> set[str]:
    return {module for module in imports(path) if module.split(".")[0] in MAY_IMPORT}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_itself_and_the_rooms_below(path):
    room = path.relative_to(ROOT).parts[0]
    ours = packages(path) & MAY_IMPORT.keys()
    assert ours <= MAY_IMPORT[room] | {room}, f"{room} may not import {ours - MAY_IMPORT[room] - {room}}"
    for package in packages(path) & ONLY_IN.keys():
        assert room in ONLY_IN[package], f"{room} may not import {package}"
    early = packages(path, top_level_only=True) & INSIDE_FUNCTIONS
    assert not early, f"{early} imported at the top of the file"


def test_no_module_imports_itself_through_others():
    graph = {".".join(path.relative_to(ROOT).with_suffix("").parts): modules_below(path) for path in SOURCES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module not in done:
            for below in sorted(graph.get(module, ())):
                visit(below, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())
    assert done >= graph.keys()


def takes(function: Callable, call: ast.Call) -> bool:
    try:
        inspect.signature(function).bind(*call.args, **{word.arg: word for word in call.keywords})
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_a_benchmark_calls_our_functions_with_the_arguments_that_they_take(path):
    """Nothing else runs all of them. A call with a * or ** is left out."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    ours = {
        alias.asname or alias.name: getattr(importlib.import_module(node.module), alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in MAY_IMPORT
        for alias in node.names
    }
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    plain = [call for call in calls if None not in [word.arg for word in call.keywords]]
    plain = [call for call in plain if not any(isinstance(word, ast.Starred) for word in call.args)]
    wrong = [call for call in plain if call.func.id in ours and not takes(ours[call.func.id], call)]
    assert not wrong, [f"line {call.lineno}: {ast.unparse(call)}" for call in wrong]


def test_importing_the_data_and_the_config_loads_no_model_library():
    code = "import dataset.views, sys; print([m for m in ('diffusers', 'accelerate', 'deepspeed') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def read_keys() -> set[tuple[str, str]]:
    """(owner, key) of every `owner.key` outside the schema, and of every `["settings"]["key"]`, as a report has it.

    `settings.key` in commands/COMMAND*.py is COMMAND's.
    """
    pairs = set()
    for path in SOURCES:
        # Blender's own `render` has keys too.
        if path.name.startswith("schemas") or path.is_relative_to(ROOT / "rendering/blender"):
            continue
        command = "evaluate" if path.parent.name == "evaluation" else path.stem.split("_")[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Name, ast.Attribute)):
                owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
                pairs.add((command if owner == "settings" else owner.removesuffix("_"), node.attr))
            if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("['settings']"):
                pairs.add((command, ast.literal_eval(node.slice)))
    return pairs


def owners(section: str, part: type, key: str) -> set[str]:
    """Names under which a key may be read: its section, and the class that the section inherits it from."""
    bases = [base for base in part.__mro__ if key in getattr(base, "model_fields", {})]
    return {section} | {base.__name__.removesuffix("Settings").lower() for base in bases}


def test_every_key_is_read_by_some_code():
    from main import COMMANDS, schema_of
    from utils.config import sections

    read = read_keys()
    for command in COMMANDS:
        for section, part in sections(schema_of(command)).items():
            unread = [
                key for key in part.model_fields if not {(name, key) for name in owners(section, part, key)} & read
            ]
            assert not unread, f"{command}: nobody reads {unread} of {section}"
