"""`make bench`: one table of ratios, measured side by side in one go, for docs/benchmarks.md.

A ratio says more than a time, since both sides ran on the same machine at about the same moment. Training and launches are
of the tiny model; real weights are so much larger that the loop's share falls. It takes nine to fifteen minutes.
`make bench ARGS=10000` opens so many records instead of a million.
"""

import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

import commands.train as loop
from benchmarks.loop_overhead import Interleaved
from benchmarks.records_scale import seconds_of_json, timed_open, write_records
from commands.cache import cache
from dataset.records import OrbitRecord
from dataset.views import WHITE, load_views
from models.encoders import Encoders
from training.validation import Validation
from utils.config import load_config
from utils.files import write_atomically
from utils.schemas import CacheConfig, DataSettings, TrainConfig

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/benchmarks.md"
BEGIN, END = "<!-- make bench: begin -->\n", "<!-- make bench: end -->\n"
TINY = "train_config/tiny_cpu.yaml"
STEPS = 20
LAUNCHED_STEPS = 24
PAGE_WIDTH = 105
BUSY = 0.7  # the load of a machine on which others work too
Row = tuple[str, str, str]  # what, ratio, measured


def main() -> None:
    os.chdir(ROOT)
    num_records = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    started = time.perf_counter()
    state = load_of_machine()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in (
            steps_rows(Path(folder)),
            run_rows(Path(folder)),
            loader_rows(Path(folder)),
            launch_rows(Path(folder)),
            records_rows(Path(folder), num_records),
        ):
            for row in part:
                print(" | ".join(row), flush=True)
                rows.append(row)
    text = table(rows, state, time.perf_counter() - started)
    print(f"\n{text}")
    write_into_page(text)


def steps_rows(folder: Path) -> Iterator[Row]:
    """A step of `main.py train` over a bare forward, backward and optimizer step, which is taken before each."""
    cache(load_config(CacheConfig, [TINY, f"cache.out={folder}/cache", "data.num_workers=0"]))
    cached = f"data.cache={folder}/cache"
    variants = {
        "training step, encoders left out": ((), False),
        "training step from images: 21 views are encoded": ((), True),
        "training step from a cache: the noised input view is encoded": ((cached,), True),
    }
    for name, (words, with_encoders) in variants.items():
        with timed(Encoders, "noised_mode") as encoding:
            run = Interleaved(STEPS, *words, with_encoders=with_encoders)
        yield over(name, run.ours, "bare step", run.bare)
    yield over("of that, encoding the noised input view", encoding, "bare step", run.bare)


def run_rows(folder: Path) -> Iterator[Row]:
    """Saving, resuming and validating, in bare steps."""
    words = (TINY, f"run.dir={folder}", "run.tracker=none", "data.num_workers=0")
    words += (
        "validation.every_steps=3",
        "validation.before=false",
        "validation.num_training_records=0",
        "validation.num_records=2",
    )
    with (
        timed(loop, "save_checkpoint") as saving,
        timed(loop, "restore") as restoring,
        timed(Validation, "run") as validating,
    ):
        for max_steps in (3, 6, 9):
            loop.train(load_config(TrainConfig, [*words, f"train.max_steps={max_steps}"]))
    bare = Interleaved(8).bare
    yield over("saving a checkpoint", saving, "bare step", bare)
    yield over("restoring one", restoring, "bare step", bare)
    yield over("validating 2 orbits", validating, "bare step", bare)


@contextmanager
def timed(owner: object, name: str) -> Iterator[list[float]]:
    """Collect the seconds of each call of `owner.name` in the block."""
    original = getattr(owner, name)
    seconds: list[float] = []

    def run(*arguments, **keywords):
        started = time.perf_counter()
        result = original(*arguments, **keywords)
        seconds.append(time.perf_counter() - started)
        return result

    with mock.patch.object(owner, name, run):
        yield seconds


def over(what: str, ours: list[float], base: str, theirs: list[float]) -> Row:
    """Return a row of the table: two medians, and their ratio."""
    first = statistics.median(ours)
    second = statistics.median(theirs)
    return f"{what} / {base}", f"{first / second:.2f}", f"{1000 * first:.0f} / {1000 * second:.0f} ms"


def loader_rows(folder: Path) -> Iterator[Row]:
    """Our loading of an orbit over a plain loop with Pillow, in CPU time, on 21 PNGs of 576 px with noise, 0.4 MB each.

    Decoding limits both. What else ours does is on the box around the object: large where that fills the frame.
    """
    for what, fills in (("an orbit", False), ("objects that fill the frame", True)):
        paths = write_noisy_views(folder, fills)
        record = OrbitRecord("bench", tuple(paths), (10.0,) * 21, "bench")
        for size_px in (576, 256):
            data = DataSettings(root=str(folder), meta="", size_px=size_px)
            ours, plain, decoding = [], [], []
            for _ in range(5):
                plain.append(cpu_seconds(pillow_loop, folder, paths, size_px))
                ours.append(cpu_seconds(load_views, record, data, 0, WHITE))
                decoding.append(cpu_seconds(decode, folder, paths))
            yield over(f"loading {what}, 576 -> {size_px} px, in CPU time", ours, "a loop with Pillow", plain)
            yield over("of that, decoding", decoding, "a loop with Pillow", plain)


def write_noisy_views(folder: Path, fills_frame: bool) -> list[str]:
    """Write 21 views of a dummy to `folder`, as it is or cropped to its box, and return their names."""
    random = np.random.default_rng(0)
    paths = []
    for view in range(21):
        image = Image.open(f"dummy_objaverse/001/{view:03d}.png").convert("RGBA")
        image = image.crop(image.getbbox()) if fills_frame else image
        pixels = np.array(image.resize((576, 576), Image.BICUBIC)).astype(int)
        pixels[..., :3] += random.integers(-5, 6, pixels[..., :3].shape)
        paths.append(f"{view}.png")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / paths[-1])
    return paths


def decode(folder: Path, paths: list[str]) -> None:
    for path in paths:
        Image.open(folder / path).load()


def pillow_loop(folder: Path, paths: list[str], size_px: int) -> torch.Tensor:
    views = []
    for path in paths:
        image = Image.open(folder / path).convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image, mask=image)
        if canvas.size != (size_px, size_px):
            canvas = canvas.resize((size_px, size_px), Image.BICUBIC)
        views.append(torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255)
    return torch.stack(views)


def cpu_seconds(call: Callable, *arguments) -> float:
    started = time.process_time()
    call(*arguments)
    return time.process_time() - started


def launch_rows(folder: Path) -> Iterator[Row]:
    """Two processes under DDP and under ZeRO-2, both in fp32, launched in turn."""
    seconds: dict[str, list[float]] = {"cpu": [], "deepspeed_zero_2": []}
    for turn in range(2):
        for engine, found in seconds.items():
            found += launched_step_seconds(folder / f"{engine}_{turn}", engine)
    ddp, zero = seconds.values()
    yield over("two processes: a step under ZeRO-2", zero, "under DDP", ddp)


def launched_step_seconds(run_dir: Path, engine: str) -> list[float]:
    """Return the seconds a step by line of the log, without the first, in which kernels are chosen and compiled."""
    words = (
        "run.name=r",
        f"run.dir={run_dir}",
        "run.tracker=none",
        "validation.every_steps=0",
        "train.log_every_steps=6",
    )
    config = f"accelerate_config/{engine}.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--num_processes", "2"]
    command = [
        *launch,
        "--mixed_precision",
        "no",
        "main.py",
        "train",
        TINY,
        *words,
        f"train.max_steps={LAUNCHED_STEPS}",
        "train.save_every_steps=0",
    ]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = [json.loads(line) for line in (run_dir / "r/metrics.jsonl").read_text().splitlines()]
    orbits_a_step = 2 * load_config(TrainConfig, [TINY]).train.batch_size
    return [orbits_a_step / line["train/orbits_per_s"] for line in lines if "train/loss" in line][1:]


def records_rows(folder: Path, number: int) -> Iterator[Row]:
    path = folder / "records.jsonl"
    write_records(path, number)
    _, first = timed_open(path)
    _, later = timed_open(path)
    plain = seconds_of_json(path)
    for moment, seconds in {"for the first time": first, "later": later}.items():
        yield over(f"opening {number:,} records {moment}, in CPU time", [seconds], "json.loads of each line", [plain])


def load_of_machine() -> str:
    load = os.getloadavg()[0]
    return f"**busy: load {load:.1f}**" if load > BUSY else "quiet"


def machine() -> str:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"^model name\s*: (.+)$", text, re.M)
    return found[1] if found else platform.processor() or platform.machine()


def table(rows: list[Row], state: str, seconds: float) -> str:
    packages = ("torch", "diffusers", "accelerate", "deepspeed", "pillow", "numpy")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    about = (
        f"Machine: {machine()}, {os.cpu_count()} cores, no GPU, {torch.get_num_threads()} threads of torch; {state}."
        f" Python {platform.python_version()}, {versions}. Taken in {seconds / 60:.0f} minutes."
    )
    lines = [
        textwrap.fill(about, PAGE_WIDTH),
        "",
        "| what | ratio | medians |",
        "|---|--:|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def write_into_page(text: str) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    write_atomically(PAGE, f"{before}{BEGIN}{text}{END}{after}")


if __name__ == "__main__":
    main()
