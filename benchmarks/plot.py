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
        values = [y for points in curves.values() for _, y in points]
        right = max(x for points in curves.values() for x, _ in points)
        tenth = 0.1 * (max(values) - (0 if from_zero else min(values)))
        low = 0 if from_zero else min(values) - tenth
        high = max(values) + tenth
        top = number * HEIGHT + TOP
        bottom = (number + 1) * HEIGHT - BOTTOM

        def place(x: float, y: float, right=right, low=low, high=high, top=top, bottom=bottom) -> tuple[float, float]:
            across = MARGIN + x / right * (WIDTH - 2 * MARGIN)
            return across, bottom - (y - low) / (high - low) * (bottom - top)

        names = [] if len(curves) == 1 else [f"{name} {colour}" for name, colour in zip(curves, COLOURS, strict=False)]
        for points, colour in zip(curves.values(), COLOURS.values(), strict=False):
            draw.line([place(x, y) for x, y in points], fill=colour, width=2)
        draw.line([(MARGIN, top), (MARGIN, bottom), (WIDTH - MARGIN, bottom)], fill="black")
        reach = f"({low:.4g} to {high:.4g}) over {right:.0f} steps"
        draw.text((MARGIN, top - 22), "; ".join([f"{label} {reach}", *names]), fill="black")
    image.save(path)
