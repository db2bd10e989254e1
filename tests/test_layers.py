"""Who may import whom, read from the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path for folder in ("commands", "dataset", "models", "utils") for path in (ROOT / folder).rglob("*.py")
)
PURE_UTILS = {"utils.config", "utils.schemas", "utils.randomness", "utils.schedule", "utils.metrics", "utils.files"}
LAYERS = {"commands", "dataset", "models", "utils"}
ONLY_IN = {  # the heavy packages, and the files that may see them
    "accelerate": ("commands/", "utils/run.py", "utils/checkpoint.py", "utils/weights.py", "utils/window.py"),
    "deepspeed": ("utils/run.py", "utils/checkpoint.py", "utils/weights.py"),
    "diffusers": ("models/", "commands/tiny_base.py", "commands/export.py"),
    "transformers": ("models/", "commands/tiny_base.py", "commands/export.py"),
}
INSIDE_FUNCTIONS = {"deepspeed", "wandb", "tensorboard", "imageio_ffmpeg", "lpips", "moviepy"}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes if isinstance(node, ast.ImportFrom)}


def allowed(layer: str, module: str) -> bool:
    if layer == "commands":
        return True
    if layer in ("dataset", "models"):
        return module.startswith(f"{layer}.") or module in PURE_UTILS
    return module.startswith("utils.")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_layer_imports_itself_and_the_layers_below(path):
    relative = path.relative_to(ROOT).as_posix()
    for module in imports(path):
        package = module.split(".")[0]
        if package in LAYERS:
            assert allowed(relative.split("/")[0], module), f"{relative} imports {module}"
        if package in ONLY_IN:
            assert relative.startswith(ONLY_IN[package]), f"{relative} imports {module}"
    loaded = {module.split(".")[0] for module in imports(path, top_level_only=True)}
    assert not loaded & INSIDE_FUNCTIONS, f"{relative} imports {loaded & INSIDE_FUNCTIONS} at the top"


def test_pure_utils_import_only_each_other():
    for module in PURE_UTILS:
        ours = {name for name in imports(ROOT / f"{module.replace('.', '/')}.py") if name.split(".")[0] in LAYERS}
        assert ours <= PURE_UTILS, module


def test_importing_the_data_and_the_config_loads_no_model_library():
    code = "import dataset.views, sys; print([m for m in ('diffusers', 'accelerate', 'deepspeed') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def read_keys() -> set[tuple[str, str]]:
    """(owner, key) of every `owner.key` outside the schema; `settings.key` in commands/COMMAND*.py is COMMAND's."""
    pairs = set()
    for path in SOURCES:
        if path.name == "schemas.py":
            continue
        command = path.stem.replace("evaluation", "evaluate").split("_")[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Name, ast.Attribute)):
                owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
                pairs.add((command if owner == "settings" else owner.removesuffix("_"), node.attr))
    return pairs


def owners(section: str, part: type, key: str) -> set[str]:
    """Names under which a key may be read: its section, and the class that the section inherits it from."""
    return {section} | {base.__name__.lower() for base in part.__mro__ if key in getattr(base, "model_fields", {})}


def test_every_key_is_read_by_some_code():
    from utils.config import sections
    from utils.schemas import SCHEMAS

    read = read_keys()
    for command, schema in SCHEMAS.items():
        for section, part in sections(schema).items():
            unread = [
                key for key in part.model_fields if not {(name, key) for name in owners(section, part, key)} & read
            ]
            assert not unread, f"{command}: nobody reads {unread} of {section}"
