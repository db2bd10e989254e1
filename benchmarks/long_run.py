"""Does anything grow in two thousand tiny steps of two processes under DDP, with saving and validation on?

`python benchmarks/long_run.py [2000] [plot.png]` prints memory, open files, processes, the trend of the step time and which
processes are left behind, and draws memory and step time. It leaves out the first tenth of the steps, and compares the
medians of the first and the last fifth of the rest.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from plot import plot

ROOT = Path(__file__).parent.parent
RUN = (
    "run.name=r", "run.tracker=tensorboard", "data.size_px=32", "data.num_frames=7", "train.batch_size=1",
    "train.log_every_steps=10", "validation.num_records=2", "validation.num_inference_steps=2",
    "validation.before=false", "validation.num_training_records=0",
)  # fmt: skip


def training_processes(launcher: psutil.Process) -> list[psutil.Process]:
    return [child for child in launcher.children(recursive=True) if "main.py" in " ".join(child.cmdline())]


def watch(process: subprocess.Popen, metrics: Path) -> list[tuple[int, float, int, int]]:
    """Return rows of (step, MiB of all training processes, their open files, their number), about one a second."""
    launcher = psutil.Process(process.pid)
    rows = []
    while process.poll() is None:
        time.sleep(1)
        try:
            children = training_processes(launcher)
            memory = sum(child.memory_info().rss for child in children) / 2**20
            rows.append((last_step(metrics), memory, sum(child.num_fds() for child in children), len(children)))
        except psutil.NoSuchProcess:
            continue
    return rows


def last_step(metrics: Path) -> int:
    return max((line["step"] for line in read(metrics)), default=0)


def read(metrics: Path) -> list[dict]:
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder, "r/metrics.jsonl")
        often = (
            f"train.max_steps={steps}",
            f"train.save_every_steps={steps // 10}",
            f"validation.every_steps={steps // 10}",
        )
        launch = ["-m", "accelerate.commands.launch", "--config_file", "accelerate_config/cpu.yaml", "main.py", "train"]
        command = [sys.executable, *launch, "train_config/tiny_cpu.yaml", f"run.dir={folder}", *RUN, *often]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        rows = watch(process, metrics)
        assert process.returncode == 0, process.returncode
        speed = [
            (line["step"], 1000 * 2 / line["train/orbits_per_s"]) for line in read(metrics) if "train/loss" in line
        ]
    everyone = max(row[3] for row in rows)  # the seconds in which processes come and go are left out
    later = [row for row in rows if row[0] >= steps // 10 and row[3] == everyone]
    fifth = max(1, len(later) // 5)
    for name, column in (("memory in MiB", 1), ("open files", 2), ("processes", 3)):
        start, end = (statistics.median(row[column] for row in part) for part in (later[:fifth], later[-fifth:]))
        print(f"{name}: median {start:.0f} after step {steps // 10}, {end:.0f} in the last: {end / start - 1:+.2%}")
    times = [ms for step, ms in speed if step > steps // 10]
    half = len(times) // 2
    first = statistics.median(times[:half])
    last = statistics.median(times[half:])
    print(f"step time: median {first:.0f} ms in the first half, {last:.0f} ms in the second ({last / first - 1:+.1%})")
    left = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
    print(f"processes left behind: {len(left)}")
    if len(sys.argv) > 2:
        memory = [(row[0], row[1]) for row in rows if row[0] > 0]
        panels = {"memory of both ranks and their loading processes, MiB": memory, "step time, ms": speed}
        plot(Path(sys.argv[2]), {label: {label: points} for label, points in panels.items()})


if __name__ == "__main__":
    main()
