"""What README.md and the pages of docs/ say of files, keys, commands and each other is so."""

import re
import shlex

import pytest

import main
from tests.helpers.launch import ROOT
from utils.config import dotted_keys, load_config

PAGES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
FOLDERS = re.findall(r"^(\w+)/ ", PAGES[ROOT / "README.md"], flags=re.MULTILINE)  # those of its file tree
SHELL_BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
WIDTH, README_LINES = 110, 160

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def test_the_readme_is_a_front_page():
    lines = PAGES[ROOT / "README.md"].splitlines()
    assert len(lines) <= README_LINES
    assert not [line for line in lines if len(line) > WIDTH]


@each_page
def test_no_line_but_of_a_table_is_wider_than_a_page(page):
    assert not [line for line in PAGES[page].splitlines() if len(line) > WIDTH and not line.startswith("|")]


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_link_and_anchor_resolves(page):
    for target in re.findall(r"\]\(\s*((?!http)[^)\s]+)", PAGES[page]):
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        assert not anchor or anchor in slugs(PAGES[linked]), target


def test_the_readme_links_every_page():
    links = set(re.findall(r"\]\(docs/(\w+\.md)", PAGES[ROOT / "README.md"]))
    assert links == {path.name for path in PAGES} - {"README.md"}


def test_every_question_has_an_answer():
    numbers = re.findall(r"^### (\d+)\. ", PAGES[ROOT / "docs/questions.md"], flags=re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 25)]


def test_the_readmes_file_tree_has_every_room():
    rooms = {
        "commands",
        "training",
        "evaluation",
        "rendering",
        "dataset",
        "models",
        "utils",
        "tests",
        "benchmarks",
        "docs",
    }
    assert rooms <= {*FOLDERS}
    assert not [name for name in FOLDERS if not (ROOT / name).is_dir()]


@each_page
def test_every_file_it_names_exists(page):
    named = re.findall(rf"(?<![\w./-])((?:{'|'.join(FOLDERS)})/[\w./-]*[\w/])", PAGES[page])
    assert not [name for name in named if not (ROOT / name).exists()]


@each_page
def test_every_name_of_a_file_is_in_it(page):
    for name, file in re.findall(r"`(\w+)`\s+of\s+`([\w/]+\.py)`", PAGES[page]):
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text()), (name, file)


@each_page
def test_every_key_it_uses_exists(page):
    known = {key for command in main.COMMANDS for key in dotted_keys(main.schema_of(command))}
    names = "|".join({key.split(".")[0] for key in known})
    used = set(re.findall(rf"(?<![\w./-])((?:{names})\.[a-zA-Z_]+)\b(?!\.py|\()", PAGES[page]))
    assert not {name for name in used - known if not name.endswith((".py", ".json", ".jsonl", ".md", ".log"))}


@each_page
def test_every_command_line_is_accepted(page):
    """Commands exist, and so do the YAML files, keys and kinds of value that are given to them; FOLDER and NAME may stand in."""
    for block in SHELL_BLOCK.findall(PAGES[page]):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "main.py" in words and not {"CONFIG.yaml", "--help"} & {*words}:
                command, *arguments = words[words.index("main.py") + 1 :]
                load_config(main.schema_of(command), arguments)
    assert set(re.findall(r"main\.py ([a-z_]+)\b(?!\.)", PAGES[page])) <= {*main.COMMANDS}


def test_the_table_of_launch_files_has_them_all():
    rows = re.findall(r"^\| (`.*?) \|", PAGES[ROOT / "docs/engines.md"], flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}
    there = {path.name.removesuffix(".yaml") for path in (ROOT / "accelerate_config").iterdir()}
    assert named == there - {"render_slurm.sbatch"}
