"""The page of an evaluation: one HTML file with the summary, PSNR against azimuth, and a looping video of each object."""

import base64
from html import escape

from evaluation.plot import ROWS, psnr_plot

METRICS = {"psnr": "PSNR (dB) ↑", "ssim": "SSIM ↑", "mse": "MSE ↓", "lpips": "LPIPS ↓", "clip": "CLIP-S ↑"}
LOWER_IS_BETTER = ("mse", "lpips")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } .published { color: #666 } .note { color: #666; font-size: 13px }
.bad { color: #b00020 } figure { margin: 1.5rem 0 } video { width: 100%; max-width: 720px; background: #eee; display: block }
"""
# Videos play while they are in sight; one that cannot be played says so.
SCRIPT = """
const watch = new IntersectionObserver(entries => entries.forEach(
  e => e.isIntersecting ? e.target.play().catch(() => {}) : e.target.pause()));
document.querySelectorAll('video').forEach(v => {
  v.addEventListener('error', () => v.insertAdjacentHTML('afterend', '<p class="bad">this video cannot be played</p>'));
  watch.observe(v);
});
"""


def evaluation_page(report: dict, published: list[dict], videos: dict[str, bytes]) -> str:
    """Return the page. `report` is metrics.json, `published` the rows of published.yaml, and `videos` an mp4 for each object id."""
    views = report["settings"]["views"]
    title = f"{report['num_objects']} objects, step {report['step']}"
    num_views = len(next(iter(report["per_view"]["sample"].values()))) - (views == "novel")
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p class=note>{escape(report['checkpoint'])}, {report['weights']} weights; numbers over the"
        f" {num_views} {views} views of each object.</p>",
        _summary(report, published, views),
        _unavailable(report["unavailable"]),
    ]
    if "psnr" in report["summary"]["sample"]:
        body.append("<h2>PSNR against azimuth</h2>" + psnr_plot(report["per_view"]))
    body.append("<h2>Objects, worst first</h2><p class=note>Input, truth, sample.</p>")
    for item in sorted(report["objects"], key=lambda item: _quality(item, views)):
        body.append(_object(item, videos[item["id"]], views))
    head = f"<meta charset=utf-8><title>{escape(title)}</title><link rel=icon href=data:,><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}<script>{SCRIPT}</script></body></html>\n"


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
    return f"<table id=summary><tr><th>{head}{''.join(rows)}</table>"


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


def _object(item: dict, video: bytes, views: str) -> str:
    means = item["metrics"]["sample"]
    numbers = ", ".join(f"{METRICS[name]} {_number(name, means[name][views])}" for name in METRICS if name in means)
    caption = f"<b>{escape(item['id'])}</b> at {item['elevation_deg']:g}°: {numbers}"
    source = f"data:video/mp4;base64,{base64.b64encode(video).decode()}"
    player = f'<video loop muted playsinline src="{source}"></video>'
    return f"<figure><figcaption>{caption}</figcaption>{player}</figure>"
