"""The report of an evaluation: the objects' files -> metrics.json, metrics.csv and a page."""

import csv
import hashlib
import io
import json
from pathlib import Path

import torch

from evaluation.metrics import over_views
from evaluation.page import evaluation_page
from utils.config import read_json
from utils.errors import UserError
from utils.files import write_atomically
from utils.reading import read_yaml
from utils.schemas import DataSettings, EvaluateSettings

PROTOCOLS = Path(__file__).parent.parent / "evaluate_config"


def write_report(
    settings: EvaluateSettings,
    model: dict,
    differences: list[str],
    metrics: list[str],
    unavailable: dict[str, str],
    files: list[Path],
) -> None:
    """`model`: checkpoint, weights and step; `differences`: from the protocol; `files`: of the objects."""
    objects = [read_json(path, "id", "elevation_deg", "video", "metrics") for path in files]
    report = summarise(objects, metrics)
    ids = "".join(f"{item['id']}\n" for item in objects)
    report = model | {
        "num_objects": len(objects),
        "objects_sha256": hashlib.sha256(ids.encode()).hexdigest(),  # of the sorted ids, a line each
        "unavailable": unavailable,
        "not_as_published": differences,
        "settings": settings.model_dump(mode="json"),
        **report,
    }
    out = Path(settings.out)
    write_atomically(out / "metrics.json", json.dumps(report, indent=1) + "\n")
    write_atomically(out / "metrics.csv", to_csv(report["objects"]))
    published = read_yaml(PROTOCOLS / "published.yaml")["gso"]
    videos = {item["id"]: (out / item["video"]).read_bytes() for item in objects}
    write_atomically(out / "index.html", evaluation_page(report, published, videos))
    print(table(report, settings.views))
    for name, reason in unavailable.items():
        print(f"{name} was not measured: {reason}")
    print(f"{out / 'index.html'}, {out / 'metrics.json'}, {out / 'metrics.csv'}")


def summarise(objects: list[dict], metrics: list[str]) -> dict:
    """{summary: {row: {metric: {novel, all}}}, per_view: {row: {metric: F}}, objects: [...]}: means over the objects."""
    summary, views = {}, {}
    for row in objects[0]["metrics"]:
        values = {name: torch.tensor([item["metrics"][row][name] for item in objects]) for name in metrics}  # N F
        views[row] = {name: per.mean(dim=0).tolist() for name, per in values.items()}
        summary[row] = {name: over_views(per.mean(dim=0)) for name, per in values.items()}
    rows = [
        {
            "id": item["id"],
            "elevation_deg": item["elevation_deg"],
            "metrics": {
                row: {name: over_views(torch.tensor(of[name])) | {"per_view": of[name]} for name in metrics}
                for row, of in item["metrics"].items()
            },
        }
        for item in objects
    ]
    return {"summary": summary, "per_view": views, "objects": rows}


def protocol_differences(settings: EvaluateSettings, data: DataSettings) -> list[str]:
    """The settings that are not those of `settings.protocol`; empty: all are. Raises UserError if there is no such protocol."""
    if settings.protocol is None:
        return ["no protocol was asked for"]
    path = PROTOCOLS / f"{settings.protocol}.yaml"
    if not path.is_file():
        raise UserError(f"evaluate.protocol: there is no {path.name} in evaluate_config/")
    now = settings.model_dump(mode="json")
    differences = [
        f"{key} is {now[key]}, not {value}"
        for key, value in read_yaml(path)["evaluate"].items()
        if (sorted(now[key]) != sorted(value) if isinstance(value, list) else now[key] != value)
    ]
    if (data.num_frames, data.object_fill) != (21, None):
        differences.append(f"{data.num_frames} views, object_fill {data.object_fill}")
    return differences


def to_csv(objects: list[dict]) -> str:
    """A row per object: id, elevation_deg, and ROW_METRIC_novel, ROW_METRIC_all."""
    text = io.StringIO()
    names = [
        (row, name, which) for row, of in objects[0]["metrics"].items() for name in of for which in ("novel", "all")
    ]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "elevation_deg", *("_".join(name) for name in names)])
    for item in objects:
        numbers = [f"{item['metrics'][row][name][which]:.6g}" for row, name, which in names]
        writer.writerow([item["id"], item["elevation_deg"], *numbers])
    return text.getvalue()


def table(report: dict, views: str) -> str:
    """The summary for the terminal."""
    metrics = list(next(iter(report["summary"].values())))
    lines = [f"{report['num_objects']} objects, {views} views" + "".join(f"{name:>10}" for name in metrics)]
    for row, of in report["summary"].items():
        lines.append(
            f"{row:<{len(lines[0]) - 10 * len(metrics)}}" + "".join(f"{of[name][views]:10.4g}" for name in metrics)
        )
    return "\n".join(lines)
