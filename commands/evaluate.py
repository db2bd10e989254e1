"""`main.py evaluate`: measures sampled views of held-out orbits, and two baselines, and writes numbers and a page."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from dataset.records import OrbitRecord, Records
from evaluation.measure import load_metrics, measure_record
from evaluation.objects import choose_records
from evaluation.report import protocol_differences, summary_table, write_report
from evaluation.results import check_results, conditions, is_measured, open_results
from models.svd import require_size
from training.checkpoint import checksums
from training.launch import gather_objects, hide_bar, launched_accelerator
from training.saved_model import SavedModel, find_saved_model, load_saved_model, require_elevation
from utils.errors import MAX_VALUE, UserError, one_line
from utils.progress import minutes_left
from utils.schemas import DataSettings, EvaluateConfig, EvaluateSettings
from utils.urls import HIDDEN


def evaluate(cfg: EvaluateConfig) -> int:
    """Return 0 if everything that was asked for could be measured, else 1."""
    accelerator = launched_accelerator()
    settings = cfg.evaluate
    out = Path(settings.out)
    saved = find_saved_model(settings)
    require_elevation(saved)
    data = evaluation_data(saved, settings)
    records = Records(settings.meta, data.num_frames, data.local_cache)
    chosen = choose_records(records, data.root, settings)
    differences = protocol_differences(settings, data)
    check_results(out)
    svd = load_saved_model(saved, accelerator)
    require_size(svd.unet, svd.encoders, data.size_px)
    with accelerator.local_main_process_first():  # so that weights are downloaded once a machine
        metrics, unavailable = load_metrics(settings, accelerator.device)
    unavailable = dict(gather_objects(list(unavailable.items())))
    metrics = {name: metric for name, metric in metrics.items() if name not in unavailable}
    if accelerator.is_main_process:
        unet = checksums(saved.base.unet)
        open_results(out, conditions(settings, records.path, saved.weights, unet, accelerator.mixed_precision))
    accelerator.wait_for_everyone()
    mine = sorted(chosen.items())[accelerator.process_index :: accelerator.num_processes]
    todo = [index for name, index in mine if not is_measured(out, name, metrics)]
    for record in with_progress([records[index] for index in todo], hide_bar(accelerator)):
        measure_record(record, data, svd, accelerator.device, metrics, settings)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        model = {
            "checkpoint": str(saved.folder),
            "weights": saved.weights,
            "step": saved.recipe["step"],
            "unet": unet,
        }
        report = write_report(settings, model, differences, list(metrics), unavailable, sorted(chosen))
        print_report(report, settings)
    accelerator.wait_for_everyone()  # the launcher ends the other ranks when one exits with 1
    accelerator.end_training()
    return 1 if unavailable else 0


def evaluation_data(saved: SavedModel, settings: EvaluateSettings) -> DataSettings:
    """Return the training data settings with evaluate's root, meta and size, on white. Raises UserError without a root."""
    root = settings.root or saved.data.root
    if not root or HIDDEN in root:
        raise UserError(f"evaluate.root is missing: {saved.folder} does not say where the images of a meta file are")
    size_px = settings.size_px or saved.data.size_px
    here = {"root": root, "meta": settings.meta, "size_px": size_px, "background": "white"}
    return saved.data.model_copy(update=here)


def with_progress(records: list[OrbitRecord], hidden: bool) -> Iterator[OrbitRecord]:
    """Yield the records. After each, print its id and the time left, and on a terminal move a bar."""
    started = time.monotonic()
    with tqdm(total=len(records), unit="object", disable=hidden) as bar:
        for number, record in enumerate(records, start=1):
            yield record
            bar.update()
            left = minutes_left(started, number, len(records))
            name = one_line(record.id, MAX_VALUE)
            tqdm.write(f"{number}/{len(records)} {name}, {left:.1f} min left", file=sys.stdout)
            sys.stdout.flush()  # a log file shows it at once


def print_report(report: dict, settings: EvaluateSettings) -> None:
    out = Path(settings.out)
    print(summary_table(report, settings.views))
    for name, reason in report["unavailable"].items():
        print(f"{name} was not measured: {reason}")
    print(f"{out / 'index.html'}, {out / 'metrics.json'}, {out / 'metrics.csv'}")
