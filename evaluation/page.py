"""The page of an evaluation: one HTML file with the summary, PSNR against azimuth, and each object, to be turned."""

from html import escape

from evaluation.plot import ROWS, psnr_plot
from evaluation.turntable import page, turntable

METRICS = {"psnr": "PSNR (dB) ↑", "ssim": "SSIM ↑", "mse": "MSE ↓", "lpips": "LPIPS ↓", "clip": "CLIP-S ↑"}
LOWER_IS_BETTER = ("mse", "lpips")
STYLE = """
.table { overflow-x: auto }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } .published { color: #595959 } .bad { color: #b00020 }
.object { margin: 1.75rem 0; overflow-wrap: anywhere } .object > p { margin: 0 0 .4rem }
"""


def evaluation_page(report: dict, published: list[dict], sheets: dict[str, bytes]) -> str:
    """Return the page. `report` is metrics.json, `published` the rows of published.yaml, `sheets` a WebP for each id."""
    views = report["settings"]["views"]
    title = f"{report['num_objects']} objects, step {report['step']}"
    num_views = len(next(iter(report["per_view"]["sample"].values())))
    num_counted = num_views - (views == "novel")
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p class=note>{escape(report['checkpoint'])}, {report['weights']} weights; numbers over the"
        f" {num_counted} {views} views of each object.</p>",
        _summary(report, published, views),
        _unavailable(report["unavailable"]),
    ]
    if "psnr" in report["summary"]["sample"]:
        body.append("<h2>PSNR against azimuth</h2>" + psnr_plot(report["per_view"]))
    body.append("<h2>Objects, worst first</h2><p class=note>Drag to turn one, or use the arrow keys.</p>")
    for item in sorted(report["objects"], key=lambda item: _quality(item, views)):
        body.append(_object(item, sheets[item["id"]], num_views, views))
    return page(title, "".join(body), STYLE)


def _quality(item: dict, views: str) -> float:
    """Return a number that is higher for better samples: the PSNR if it was measured, else another metric."""
    means = item["metrics"]["sample"]
    name = next(name for name in METRICS if name in means)
    value = means[name][views]
    return -value if name in LOWER_IS_BETTER else value


def _summary(report: dict, published: list[dict], views: str) -> str:
    """Return the table of means. The published rows follow, each with a mark if it is not comparable."""
    names = [name for name in METRICS if name in report["summary"]["sample"] or name in report["unavailable"]]
    head = "".join(f"<th>{METRICS[name]}" for name in names)
    rows = []
    for row, means in report["summary"].items():
        numbers = [_number(name, means[name][views]) if name in means else "–" for name in names]
        rows.append(f"<tr><td>{ROWS[row]}" + "".join(f"<td>{number}" for number in numbers))
    for row in published:
        reasons = why_not_comparable(row, report)
        mark = f" <b>not comparable</b>: {escape('; '.join(reasons))}" if reasons else ""
        numbers = "".join(f"<td>{row[name]:.2f}" if name in row else "<td>–" for name in names)  # as published
        rows.append(f"<tr class=published><td>{escape(row['model'])} ({escape(row['source'])}){mark}{numbers}")
    return f"<div class=table><table id=summary><tr><th>{head}{''.join(rows)}</table></div>"


def why_not_comparable(row: dict, report: dict) -> list[str]:
    """Return the reasons why a published row is not comparable with the evaluation: none if it is."""
    if row["protocol"] != report["settings"]["protocol"]:
        return ["another protocol"]
    if row["objects_sha256"] is None:
        return [*report["not_as_published"], "its objects and renders were not published"]
    if row["objects_sha256"] != report["objects_sha256"]:
        return [*report["not_as_published"], "other objects"]
    return report["not_as_published"]


def _number(metric: str, value: float) -> str:
    return f"{value:.2f}" if metric == "psnr" else f"{value:.3f}"


def _unavailable(reasons: dict[str, str]) -> str:
    return "".join(f"<p class=bad>{METRICS[name]} was not measured: {escape(why)}</p>" for name, why in reasons.items())


def _object(item: dict, sheet: bytes, num_views: int, views: str) -> str:
    means = item["metrics"]["sample"]
    numbers = ", ".join(f"{METRICS[name]} {_number(name, means[name][views])}" for name in METRICS if name in means)
    caption = f"<b>{escape(item['id'])}</b> at {item['elevation_deg']:g}°: {numbers}"
    panels = {"input": 1, "truth": num_views, "sample": num_views}
    turned = turntable(sheet, panels, f"{item['id']}: the input, true views and sampled views")
    return f"<section class=object><p>{caption}</p>{turned}</section>"
