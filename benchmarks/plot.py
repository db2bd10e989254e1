"""Plots for docs/: panels of curves over steps, drawn with Pillow."""

from pathlib import Path

from PIL import Image, ImageDraw

Points = list[tuple[float, float]]  # (step, value)

WIDTH, HEIGHT, MARGIN, TOP, BOTTOM = 900, 220, 60, 30, 40  # pixels of a panel
COLOURS = {"blue": (30, 90, 200), "red": (200, 60, 40), "green": (30, 140, 70), "grey": (130, 130, 130)}


def plot(path: Path, panels: dict[str, dict[str, Points]], from_zero: bool = True) -> None:
    """Draw a panel for each label, and in it each of its named curves (at most four) in a colour of its own.

    The values of a panel reach from 0, or from a tenth below the smallest, to a tenth above the largest.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT * len(panels)), "white")
    draw = ImageDraw.Draw(image)
    for number, (label, curves) in enumerate(panels.items()):
        _panel(draw, number * HEIGHT, label, curves, from_zero)
    image.save(path)


def _panel(draw: ImageDraw.ImageDraw, y: int, label: str, curves: dict[str, Points], from_zero: bool) -> None:
    """Draw a panel from `y` pixels down."""
    values = [value for points in curves.values() for _, value in points]
    last = max(step for points in curves.values() for step, _ in points)
    high = max(values)
    low = 0 if from_zero else min(values)
    tenth = 0.1 * (high - low)
    high += tenth
    low -= 0 if from_zero else tenth
    left = MARGIN
    right = WIDTH - MARGIN
    top = y + TOP
    bottom = y + HEIGHT - BOTTOM
    names = []
    for (name, points), (colour, rgb) in zip(curves.items(), COLOURS.items(), strict=False):
        place = [
            (left + step / last * (right - left), bottom - (value - low) / (high - low) * (bottom - top))
            for step, value in points
        ]
        draw.line(place, fill=rgb, width=2)
        names.append(f"{name} {colour}")
    draw.line([(left, top), (left, bottom), (right, bottom)], fill="black")
    text = f"{label} ({low:.4g} to {high:.4g}) over {last:.0f} steps"
    draw.text((left, y + 8), "; ".join([text, *names]) if len(names) > 1 else text, fill="black")
