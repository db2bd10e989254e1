"""What does the quick start learn of orbits that it did not see? `python benchmarks/quick_start_folds.py [key=value ...]`.

Five fine-tunings as `make train` does one, each with other four of the 20 dummies held out: a quarter of an hour. Four
held-out orbits say little, since what repeating their input view reaches differs by 5 dB. Further words are keys of the config.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from long_run import read

ROOT = Path(__file__).parents[1]
CONFIG = "train_config/tiny_cpu.yaml"
HELD_OUT = 4


def main() -> None:
    lines = [line for name in ("svd_meta.jsonl", "svd_meta_held_out.jsonl") for line in (ROOT / name).open()]
    folds = []
    with tempfile.TemporaryDirectory() as folder:
        for first in range(0, len(lines), HELD_OUT):
            held_out = lines[first : first + HELD_OUT]
            training = [line for line in lines if line not in held_out]
            folds.append(fine_tune(Path(folder, str(first)), held_out, training))
            show(", ".join(json.loads(line)["id"] for line in held_out), folds[-1:])
    show(f"all {len(lines)}", folds)


def show(name: str, folds: list[dict[str, float]]) -> None:
    means = (f"{key} {sum(fold[key] for fold in folds) / len(folds):.2f} dB" for key in folds[0])
    print(f"{name}:", ", ".join(means), flush=True)


def fine_tune(folder: Path, held_out: list[str], training: list[str]) -> dict[str, float]:
    """Train without the lines `held_out`; return the PSNR of their novel views before and after, in dB."""
    folder.mkdir()
    metas = {"data": folder / "training.jsonl", "validation": folder / "held_out.jsonl"}
    metas["data"].write_text("".join(training))
    metas["validation"].write_text("".join(held_out))
    words = [CONFIG, *(f"{section}.meta={path}" for section, path in metas.items()), *sys.argv[1:]]
    latents = folder / "latents"
    run("cache", *words, f"cache.out={latents}")
    run("train", *words, f"data.cache={latents}", f"run.dir={folder}", "run.name=r", "run.tracker=none")
    first, *_, last = [line for line in read(folder / "r/metrics.jsonl") if "val/loss" in line]
    return {
        "before": first["val/psnr_novel"],
        "after": last["val/psnr_novel"],
        "the input view repeated": last["val/input_repeated_psnr_novel"],
    }


def run(*words: str) -> None:
    subprocess.run([sys.executable, "main.py", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
