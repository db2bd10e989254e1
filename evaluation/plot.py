"""A plot of PSNR against azimuth, as an SVG with a line for each row of the report."""

ROWS = {
    "sample": "sample",
    "input_repeated": "input view repeated",
    "vae_reconstruction": "VAE reconstruction of the truth",
}
COLOURS = {"sample": "#1f6feb", "input_repeated": "#c2410c", "vae_reconstruction": "#15803d"}
PERFECT_DB = 99  # a view that equals the truth has 100 dB and is not drawn
LEFT, TOP, WIDTH, HEIGHT = 60, 20, 760, 260  # the frame in which the lines are drawn


def psnr_plot(per_view: dict[str, dict[str, list[float]]]) -> str:
    """Draw {row: {"psnr": F}} as an SVG: the mean PSNR of each view against its azimuth from the input view."""
    psnr = {row: metrics["psnr"] for row, metrics in per_view.items()}
    drawn = [db for values in psnr.values() for db in values if db < PERFECT_DB]
    low = min(drawn, default=0) // 5 * 5
    high = -(-max(drawn, default=40) // 5) * 5 + 1e-9
    parts = _grid(low, high)
    for place, (row, values) in enumerate(psnr.items()):
        points = " ".join(
            f"{LEFT + WIDTH * view / len(values):.1f},{_height_at(db, low, high):.1f}"
            for view, db in enumerate(values)
            if db < PERFECT_DB
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[row]}" stroke-width="2"/>')
        parts += _legend(row, TOP + HEIGHT + 60 + 20 * place)
    size = f'viewBox="0 0 {LEFT + WIDTH + 20} {TOP + HEIGHT + 70 + 20 * len(psnr)}"'
    return f'<svg id="plot" {size} style="max-width:860px;font:12px system-ui,sans-serif">{"".join(parts)}</svg>'


def _height_at(db: float, low: float, high: float) -> float:
    return TOP + HEIGHT * (high - db) / (high - low)


def _grid(low: float, high: float) -> list[str]:
    """Draw a line at every 5 dB, a number at every 45 degrees, and the names of the axes."""
    parts = [f'<text x="14" y="{TOP - 6}">dB</text>']
    for db in range(int(low), int(high) + 1, 5):
        y = _height_at(db, low, high)
        parts.append(f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{db}</text>')
    for degrees in range(0, 361, 45):
        x = LEFT + WIDTH * degrees / 360
        parts.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{degrees}</text>')
    label = "azimuth from the input view (degrees)"
    parts.append(f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 38}" text-anchor="middle">{label}</text>')
    return parts


def _legend(row: str, y: int) -> list[str]:
    return [
        f'<path d="M{LEFT} {y - 4}h24" stroke="{COLOURS[row]}" stroke-width="3"/>',
        f'<text x="{LEFT + 32}" y="{y}">{ROWS[row]}</text>',
    ]
