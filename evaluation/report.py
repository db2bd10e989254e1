"""The report of an evaluation: metrics.json, metrics.csv and a page, all made from the objects' files."""

import csv
import hashlib
import io
import json
from pathlib import Path

import torch

from evaluation.metrics import over_views
from evaluation.page import evaluation_page
from evaluation.results import read_objects, sheet_file
from utils.errors import UserError
from utils.files import open_file, write_atomically
from utils.reading import read_yaml
from utils.schemas import DataSettings, EvaluateSettings

PROTOCOLS = Path(__file__).parent.parent / "evaluate_config"
PUBLISHED = PROTOCOLS / "published.yaml"


def write_report(
    settings: EvaluateSettings,
    model: dict,
    differences: list[str],
    metrics: list[str],
    unavailable: dict[str, str],
    ids: list[str],
) -> dict:
    """Write metrics.json, metrics.csv and index.html of the objects `ids`, and return what is in metrics.json.

    `model` holds checkpoint, weights, step, and the checksums of the UNet's files. `differences` comes from
    `protocol_differences`.
    """
    out = Path(settings.out)
    objects = read_objects(out, ids, metrics)
    report = model | {
        "num_objects": len(objects),
        "objects_sha256": hashlib.sha256("".join(f"{name}\n" for name in ids).encode()).hexdigest(),
        "unavailable": unavailable,
        "not_as_published": differences,
        "settings": settings.model_dump(mode="json"),
        **summarise(objects, metrics),
    }
    write_atomically(out / "metrics.json", json.dumps(report, indent=1) + "\n")
    write_atomically(out / "metrics.csv", to_csv(report["objects"]))
    published = read_yaml(PUBLISHED)["gso"]
    sheets = {}
    for name in ids:
        with open_file(sheet_file(out, name)) as file:
            sheets[name] = file.read()
    write_atomically(out / "index.html", evaluation_page(report, published, sheets))
    return report


def summarise(objects: list[dict], metrics: list[str]) -> dict:
    """Return means over the objects: {summary: {row: {metric: {novel, all}}}, per_view: {row: {metric: F}}, objects: [...]}."""
    summary: dict[str, dict] = {}
    views: dict[str, dict] = {}
    for row in objects[0]["metrics"]:
        values = {name: torch.tensor([item["metrics"][row][name] for item in objects]) for name in metrics}  # N F
        views[row] = {name: table.mean(dim=0).tolist() for name, table in values.items()}
        summary[row] = {name: over_views(table.mean(dim=0)) for name, table in values.items()}
    return {"summary": summary, "per_view": views, "objects": [_object_row(item, metrics) for item in objects]}


def _object_row(item: dict, metrics: list[str]) -> dict:
    """Return an object's entry in the report: its numbers for each view, and their means."""
    means = {
        row: {name: over_views(torch.tensor(values[name])) | {"per_view": values[name]} for name in metrics}
        for row, values in item["metrics"].items()
    }
    return {"id": item["id"], "elevation_deg": item["elevation_deg"], "metrics": means}


def protocol_differences(settings: EvaluateSettings, data: DataSettings) -> list[str]:
    """Return how the settings differ from `settings.protocol`. Without a difference, published numbers are comparable.

    Raises UserError if there is no such protocol.
    """
    if settings.protocol is None:
        return ["no protocol was asked for"]
    path = PROTOCOLS / f"{settings.protocol}.yaml"
    if path not in PROTOCOLS.glob("*.yaml") or path == PUBLISHED:
        raise UserError(f"evaluate.protocol: there is no {settings.protocol}.yaml in evaluate_config/")
    now = settings.model_dump(mode="json")
    differences = [
        f"{key} is {now[key]}, not {value}"
        for key, value in read_yaml(path)["evaluate"].items()
        if _in_any_order(now[key]) != _in_any_order(value)
    ]
    if (data.num_frames, data.object_fill) != (21, None):
        differences.append(f"{data.num_frames} views, object_fill {data.object_fill}")
    return differences


def _in_any_order(value: object) -> object:
    return sorted(value) if isinstance(value, list) else value


def to_csv(objects: list[dict]) -> str:
    """Return a CSV with a line for each object. Its columns are id, elevation_deg, and ROW_METRIC_novel and ROW_METRIC_all."""
    text = io.StringIO()
    columns = [
        (row, name, which)
        for row, by_metric in objects[0]["metrics"].items()
        for name in by_metric
        for which in ("novel", "all")
    ]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "elevation_deg", *("_".join(column) for column in columns)])
    for item in objects:
        numbers = [f"{item['metrics'][row][name][which]:.6g}" for row, name, which in columns]
        writer.writerow([_quoted(item["id"]), item["elevation_deg"], *numbers])
    return text.getvalue()


def _quoted(text: str) -> str:
    """Return an id as a cell: control characters are escaped, and a ' goes before what would be a formula."""
    cell = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return f"'{cell}" if cell.lstrip().startswith(("=", "+", "-", "@")) else cell


def summary_table(report: dict, views: str) -> str:
    """Return the means over the objects as a table for the terminal."""
    title = f"{report['num_objects']} objects, {views} views"
    metrics = list(next(iter(report["summary"].values())))
    lines = [title + "".join(f"{name:>10}" for name in metrics)]
    for row, means in report["summary"].items():
        lines.append(f"{row:<{len(title)}}" + "".join(f"{means[name][views]:10.4g}" for name in metrics))
    return "\n".join(lines)
