"""Does a run that was killed and started again end as if nothing had happened?

`python benchmarks/kill_and_resume.py [20]` kills a run at moments spread over training, saving and pruning. A moment is a
micro-step, fsync, rename, removal, checksum or torch.save of the run. The process sends itself SIGKILL just before it, with
no chance to clean up.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

RUN = (
    "run.name=r",
    "run.tracker=none",
    "data.size_px=32",
    "data.num_frames=7",
    "data.num_workers=0",
    "train.log_every_steps=3",
)
STEPS = (
    "train.max_steps=6",
    "train.save_every_steps=2",
    "train.keep_last=1",
    "validation.every_steps=0",
    "train.batch_size=1",
)
MOMENT = "moment: "  # begins a line of output


def train_until(moment: int, words: Sequence[str]) -> None:
    """Train, print what each moment is, and die at number `moment` (0: never). This runs in its own process."""
    import torch

    import commands.train
    from utils.config import load_config
    from utils.schemas import TrainConfig

    torch.set_num_threads(1)
    numbers = count(1)

    def watch(module, name: str) -> None:
        original = getattr(module, name)

        def watched(*arguments, **keywords):
            print(MOMENT + (f"{name} {Path(str(arguments[0])).name[:30]}" if module is os else name), flush=True)
            if next(numbers) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **keywords)

        setattr(module, name, watched)

    for module, name in (
        (commands.train, "denoising_loss"),
        (torch, "save"),
        (hashlib, "file_digest"),
        (os, "fsync"),
        (os, "rename"),
        (os, "unlink"),
        (os, "rmdir"),
    ):
        watch(module, name)
    cfg = load_config(TrainConfig, ["train_config/tiny_cpu.yaml", *RUN, *STEPS, *words])
    commands.train.train(cfg)


def python(*words: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(start: Callable, moment: int, run_dir: Path, words: Sequence[str]) -> tuple[int, list[str]]:
    """Return the exit code (-9 if killed) and what the moments were."""
    process = start(__file__, "train", str(moment), f"run.dir={run_dir}", *words)
    output, _ = process.communicate()
    moments = [line.removeprefix(MOMENT) for line in output.splitlines() if line.startswith(MOMENT)]
    return process.returncode, moments


def outcome(run_dir: Path) -> dict:
    """Return what must not depend on a kill: the last checkpoint with its checksums, what is unfinished, and the losses.

    A checkpoint that was to be pruned at the very end may stay: the next save would remove it.
    """
    folder = run_dir / "r"
    saved = sorted(path.name for path in (folder / "checkpoints").iterdir())
    unfinished = [name for name in saved if name.startswith(".")]
    files = json.loads((folder / "checkpoints" / saved[-1] / "meta.json").read_text())["files"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "last": saved[-1],
        "unfinished": unfinished,
        "files": files,
        "losses": [(line["step"], line["train/loss"]) for line in lines],
    }


def kill_and_resume(num_moments: int, work: Path, *words: str, start: Callable = python) -> list[str]:
    """Return a line for each moment. Raises AssertionError if a kill at one of them changes how the run ends.

    `words` are more of the run's settings. `start` starts a Python with the words it is given, as subprocess.Popen does.
    """
    code, moments = run(start, 0, work / "whole", words)
    assert code == 0
    whole = outcome(work / "whole")
    lines = []
    for number in range(num_moments):
        moment = 1 + (number * (len(moments) - 1)) // max(1, num_moments - 1)
        code, _ = run(start, moment, work / "killed", words)
        assert code == -signal.SIGKILL, (moment, code)
        left = sorted(path.name for path in (work / "killed/r/checkpoints").glob("*"))
        code, _ = run(start, 0, work / "killed", words)
        assert code == 0, (moment, moments[moment - 1])
        again = outcome(work / "killed")
        assert again == whole, f"killed at moment {moment}, {moments[moment - 1]}: {again} is not {whole}"
        lines.append(
            f"moment {moment:3d} of {len(moments)}, before {moments[moment - 1]:<40} left {left}: went on, same end"
        )
        shutil.rmtree(work / "killed")
    return lines


def main() -> None:
    if sys.argv[1:2] == ["train"]:
        return train_until(int(sys.argv[2]), sys.argv[3:])
    num_moments = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(kill_and_resume(num_moments, Path(folder))))


if __name__ == "__main__":
    main()
