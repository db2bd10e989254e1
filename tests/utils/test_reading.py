"""YAML and JSON that anyone may have written: read as they should be, or refused in one short error, within seconds."""

import json
import os
import random
import time

import pytest

from tests.helpers.hostile import ODD_VALUES, mutated_bytes, mutated_tree
from utils.config import load_config
from utils.errors import UserError, cut, one_line, shown
from utils.files import open_file
from utils.reading import InsidePath, Saved, parse_json_line, read_json, read_yaml
from utils.schemas import TrainConfig


class Scores(Saved):
    psnr: tuple[float, ...]
    name: str


class Report(Saved):
    step: int
    scores: dict[str, Scores]
    video: InsidePath
    settings: dict


REPORT = {
    "step": 3,
    "scores": {"a": {"psnr": [1.0, 2.5], "name": "x"}},
    "video": "v/a.mp4",
    "settings": {"size_px": 64, "views": ["novel"]},
}
YAML = "run: {name: x}\ndata:\n  root: r\n  meta: m\nmodel: {base: b}\ntrain: {max_steps: 5}\nvalidation: {meta: h}\n"


def refused(read, *arguments) -> str | None:
    """Return the error of a call, if there is one. It must be short and come soon, in time of the processor, which others share."""
    started = time.process_time()
    try:
        read(*arguments)
    except UserError as error:
        message = str(error)
        assert len(message) < 4000
    else:
        message = None
    assert time.process_time() - started < 5
    return message


def test_a_report_is_read_and_every_mistake_names_file_and_key(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(REPORT | {"more": 1}))
    assert read_json(path, Report).scores["a"].psnr == (1.0, 2.5)
    path.write_text(json.dumps({"step": 1.0, "scores": {"a": {"psnr": [True]}}, "video": "../a", "settings": {}}))
    message = refused(read_json, path, Report)
    for part in (
        f"{path}: step: ",
        "scores.a.psnr.0: ",
        "scores.a.name: missing",
        "video: must be a path inside the folder",
    ):
        assert part in message


def test_a_mutated_report_is_a_report_or_one_error_that_names_the_file(tmp_path):
    path = tmp_path / "report.json"
    texts = [json.dumps(mutant).encode() for mutant in mutated_tree(REPORT, 500, seed=0)]
    texts += mutated_bytes(json.dumps(REPORT).encode(), 500, seed=1)
    texts += [json.dumps(value).encode() for value in ODD_VALUES if value != 10**400]
    texts += [b"[" * 10**6, b'{"a":' * 10**6, b"1" * 10**6, json.dumps(REPORT).encode("utf-16"), b"\0" * 100]
    messages = []
    for text in texts:
        path.write_bytes(text)
        messages.append(refused(read_json, path, Report))
    found = [message for message in messages if message]
    assert 400 < len(found) < len(texts) and all(message.startswith(f"{path}: ") for message in found)


def test_a_line_is_what_python_reads_in_it_or_an_error_with_python_s_words():
    lines = [json.dumps(mutant).encode() for mutant in mutated_tree(REPORT, 500, seed=2)]
    lines += mutated_bytes(json.dumps(REPORT).encode(), 1000, seed=3)
    lines += [b'["\\ud800"]', b"[NaN, -Infinity, 1e999, -0.0, 1e-320, 0.1234567890123456789]", b'{"a": 1, "a": 2}']
    lines += [b"\xef\xbb\xbf{}", b"[" * 500 + b"]" * 500, b"1" * 4000, b"1" * 5000, b"{} x", b'"\t"', b"\xff"]
    refused = 0
    for line in lines:
        try:
            wanted = repr(json.loads(line.decode("utf-8-sig")))
        except (ValueError, RecursionError):
            refused += 1
            with pytest.raises(UserError, match=r"^here: not "):
                parse_json_line(line, "here")
        else:
            assert repr(parse_json_line(line, "here")) == wanted
    assert 300 < refused < len(lines) - 300


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")),
        "a: &a {x: *a}",
        "a: &a [*a]",
        "[" * 60_000,
        "{a: " * 15_000,
        "- " * 30_000,
        "a: " + "[" * 33 + "]" * 33,
        "x" * 70_000,
        "run: {name: 0x" + "f" * 10_000 + "}",
        "run: {name: 1" + "0" * 5_000 + "}",
        "run: {name: !!int x}",
        "run: {name: !!timestamp x}",
        "run: {name: !!float x}",
        'run: {name: !!int ""}',
        'run: {name: !!float ""}',
        "run: {name: " + "[?,?," * 3_000 + "}",
        "run: {name: " + "[" * 10_000,
        "run: {name: !!binary x}",
        "run: !!set {a, b}",
        "? [a, b]\n: c",
        "run: {name: \"a\\0b\"}",
        "run: {name: \"\\ud800\"}",
        "%YAML 9.9\n---\na: b",
        "a: b\n---\nc: d",
        "\x1b[2J",
        "<<: 5",
    ],
    ids=lambda text: ascii(text[:20]),
)  # fmt: skip
def test_a_yaml_made_to_do_harm_is_refused_soon(text, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    message = refused(load_config, TrainConfig, [str(path)])
    assert message.startswith((str(path), "run"))
    value = text.partition("name: ")[2].removesuffix("}") or text
    assert refused(load_config, TrainConfig, ["train_config/tiny_cpu.yaml", f"run.allow_changed={value}"])


def test_a_text_that_a_terminal_would_obey_is_refused_wherever_it_is_given(tmp_path):
    path = tmp_path / "c.yaml"
    for code in (*range(0x20), *range(0x7F, 0xA0), 0xD800):
        path.write_text(json.dumps({"run": {"dir": f"a{chr(code)}b"}}))
        message = refused(load_config, TrainConfig, [str(path)])
        assert message.startswith(f"{path}: run.dir: ") and message.isprintable()
        message = refused(load_config, TrainConfig, ["train_config/tiny_cpu.yaml", f"run.dir=a{chr(code)}b"])
        assert "run.dir: " in message and message.isprintable()
    assert not refused(load_config, TrainConfig, ["train_config/tiny_cpu.yaml", "run.dir=a\u00a0\u202f\u3000é"])


def test_a_mutated_yaml_is_a_config_or_one_error(tmp_path):
    path = tmp_path / "c.yaml"
    messages = []
    for mutant in mutated_bytes(YAML.encode(), 200, seed=0):
        path.write_bytes(mutant)
        messages.append(refused(load_config, TrainConfig, [str(path)]))
    assert None in messages and sum(map(bool, messages)) > 100


def test_odd_values_of_every_key_are_taken_or_refused_by_one_error():
    base = load_config(TrainConfig, ["train_config/tiny_cpu.yaml"]).model_dump(mode="json")
    names, dice = [f"{section}.{key}" for section, keys in base.items() for key in keys], random.Random(0)
    for name, value in ((dice.choice(names), dice.choice(ODD_VALUES)) for _ in range(200)):
        text = json.dumps(value, ensure_ascii=False) if value != 10**400 else "9" * 400
        message = refused(load_config, TrainConfig, ["train_config/tiny_cpu.yaml", f"{name}={text}"])
        assert message is None or name.partition(".")[2] in message


def test_aliases_within_reason_are_read(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("base: &base {a: 1}\none: *base\ntwo: {<<: *base, b: 2}\n")
    assert read_yaml(path)["two"] == {"a": 1, "b": 2}


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "link").symlink_to("/dev/zero")
    odd = [tmp_path / "pipe", tmp_path / "link", tmp_path / "loop", tmp_path, "/dev/zero", "/dev/stdin", "a\0b", "\udcff\ud800",
           "x" * 300, "y/" * 3000, "/proc/self/mem/x", ""]  # fmt: skip
    for path in odd:
        message = refused(open_file, path)
        assert message and "cannot be read: " in message, path
    for word in ("pipe", "link", ""):
        assert refused(load_config, TrainConfig, [str(tmp_path / word)])


def test_a_double_dash_before_a_key_is_accepted():
    cfg = load_config(TrainConfig, ["train_config/tiny_cpu.yaml", "--optim.learning_rate=3e-4", "--run.name=a"])
    assert (cfg.optim.learning_rate, cfg.run.name) == (3e-4, "a")
    assert "--learning_rate=1" in refused(load_config, TrainConfig, ["train_config/tiny_cpu.yaml", "--learning_rate=1"])


def test_what_errors_repeat_is_cut_and_holds_nothing_that_a_terminal_obeys():
    for value in ("x" * 10**7, ["x" * 10**6] * 10**4, {"x" * 10**6: 1}, 10**3000, 10**5000, [10**5000]):
        assert len(shown(value)) < 2000
    assert cut("a" * 1000) == "a" * 97 + " ... " + "a" * 97 and cut("short") == "short"
    line = one_line("a\x1b[2J\n\tb\r\x07\x9b\u202e\ud800 é" + "z" * 10**6)
    assert line.isprintable() and line.startswith("a\\x1b[2J b \\x07\\x9b\\u202e\\ud800 é") and len(line) < 5000
