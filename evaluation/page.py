"""An evaluation as one HTML page that needs no other file: summary, PSNR against azimuth, a looping video for each object."""

import base64
from html import escape

ROWS = {
    "sample": "sample",
    "input_repeated": "input view repeated",
    "vae_reconstruction": "VAE reconstruction of the truth",
}
COLOURS = {"sample": "#1f6feb", "input_repeated": "#c2410c", "vae_reconstruction": "#15803d"}
METRICS = {"psnr": "PSNR (dB) ↑", "ssim": "SSIM ↑", "mse": "MSE ↓", "lpips": "LPIPS ↓", "clip": "CLIP-S ↑"}
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
    """`report`: metrics.json; `published`: rows of evaluate_config/published.yaml; `videos`: mp4 by object id."""
    views = report["settings"]["views"]
    worst_first = sorted(report["objects"], key=lambda item: _worst_first(item, views))
    title = f"{report['num_objects']} objects, step {report['step']}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p class=note>{escape(report['checkpoint'])}, {report['weights']} weights; numbers over the"
        f" {_num_views(report) - (views == 'novel')} {views} views of each object.</p>",
        _summary(report, published, views),
        _unavailable(report["unavailable"]),
        "<h2>PSNR against azimuth</h2>" + _plot(report["per_view"]) if "psnr" in report["summary"]["sample"] else "",
        "<h2>Objects, worst first</h2><p class=note>Input, truth, sample.</p>",
        *(_object(item, videos[item["id"]], views) for item in worst_first),
    ]
    head = f"<meta charset=utf-8><title>{escape(title)}</title><link rel=icon href=data:,><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}<script>{SCRIPT}</script></body></html>\n"


def _num_views(report: dict) -> int:
    return len(next(iter(report["per_view"]["sample"].values())))


def _worst_first(item: dict, views: str) -> float:
    """By PSNR if it was measured, else by whichever metric was."""
    name, of = next((name, item["metrics"]["sample"][name]) for name in METRICS if name in item["metrics"]["sample"])
    return -of[views] if name in ("mse", "lpips") else of[views]


def _summary(report: dict, published: list[dict], views: str) -> str:
    names = [name for name in METRICS if name in report["summary"]["sample"] or name in report["unavailable"]]
    head = "".join(f"<th>{METRICS[name]}" for name in names)
    rows = [
        f"<tr><td>{ROWS[row]}" + "".join(f"<td>{_number(name, of.get(name, {}).get(views))}" for name in names)
        for row, of in report["summary"].items()
    ]
    for row in published:
        differences = _differences(row, report)
        mark = f" <b>not comparable</b>: {escape('; '.join(differences))}" if differences else ""
        numbers = "".join(f"<td>{row[name]:.2f}" if name in row else "<td>–" for name in names)  # as published
        rows.append(f"<tr class=published><td>{escape(row['model'])} ({escape(row['source'])}){mark}{numbers}")
    return f"<table id=summary><tr><th>{head}{''.join(rows)}</table>"


def _differences(row: dict, report: dict) -> list[str]:
    """Why a published row does not compare with the evaluation; empty: it does."""
    if row["protocol"] != report["settings"]["protocol"]:
        return ["another protocol"]
    if row["objects_sha256"] is None:
        return [*report["not_as_published"], "its objects and renders were not published"]
    return report["not_as_published"] + ["other objects"] * (row["objects_sha256"] != report["objects_sha256"])


def _number(metric: str, value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if metric == "psnr" else f"{value:.3f}"


def _unavailable(reasons: dict[str, str]) -> str:
    return "".join(f"<p class=bad>{METRICS[name]} was not measured: {escape(why)}</p>" for name, why in reasons.items())


def _plot(per_view: dict) -> str:
    """An SVG line for each row: mean PSNR of a view over its azimuth from the input's."""
    left, top, width, height = 60, 20, 760, 260
    values = [value for of in per_view.values() for value in of["psnr"] if value < 99]  # 100: equal to the truth
    low, high = min(values, default=0) // 5 * 5, -(-max(values, default=40) // 5) * 5 + 1e-9
    parts = []
    for db in range(int(low), int(high) + 1, 5):
        y = top + height * (high - db) / (high - low)
        parts.append(
            f'<path d="M{left} {y:.1f}h{width}" stroke="#ddd"/><text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{db}</text>'
        )
    for degrees in range(0, 361, 45):
        x = left + width * degrees / 360
        parts.append(f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{degrees}</text>')
    for place, (row, of) in enumerate(per_view.items()):
        points = " ".join(
            f"{left + width * view / len(of['psnr']):.1f},{top + height * (high - db) / (high - low):.1f}"
            for view, db in enumerate(of["psnr"])
            if db < 99
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[row]}" stroke-width="2"/>')
        legend = top + height + 60 + 20 * place
        parts.append(f'<path d="M{left} {legend - 4}h24" stroke="{COLOURS[row]}" stroke-width="3"/>')
        parts.append(f'<text x="{left + 32}" y="{legend}">{ROWS[row]}</text>')
    parts.append(
        f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">azimuth from the input view (degrees)</text>'
    )
    parts.append(f'<text x="14" y="{top - 6}">dB</text>')
    size = f'viewBox="0 0 {left + width + 20} {top + height + 70 + 20 * len(per_view)}"'
    return f'<svg id="plot" {size} style="max-width:860px;font:12px system-ui,sans-serif">{"".join(parts)}</svg>'


def _object(item: dict, video: bytes, views: str) -> str:
    of = item["metrics"]["sample"]
    numbers = ", ".join(f"{METRICS[name]} {_number(name, of[name][views])}" for name in METRICS if name in of)
    caption = f"<b>{escape(item['id'])}</b> at {item['elevation_deg']:g}°: {numbers}"
    source = f"data:video/mp4;base64,{base64.b64encode(video).decode()}"
    player = f'<video loop muted playsinline src="{source}"></video>'
    return f"<figure><figcaption>{caption}</figcaption>{player}</figure>"
