"""An orbit on an HTML page, turned by dragging. The pages of `sample` and `evaluate`, and that of `demo`, show it.

All pictures of an orbit are tiles of one WebP, the sheet. A panel shows one tile at a time, and turntable.js says which.
"""

import base64
import io
import math
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

MAX_TILE_PX = 384  # on a page a view is smaller than this
MAX_SHEET_PX = 4096  # of a side; browsers of phones refuse much larger images
QUALITY = 85  # of WebP, from 0 to 100 (best)
STYLE = Path(__file__).with_name("turntable.css").read_text(encoding="utf-8")
SCRIPT = Path(__file__).with_name("turntable.js").read_text(encoding="utf-8")
PAGE_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff }
body { max-width: 1100px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere }
.note { color: #595959; font-size: 13px; overflow-wrap: anywhere }
"""
# A page of ours opens no other file and no connection, whatever its texts hold.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def pack_sheet(panels: dict[str, np.ndarray]) -> bytes:
    """Return all frames (F H W 3 for each panel) as the tiles of one WebP, row by row, in as many columns as rows or one more.

    A tile has the frames' size, but at most MAX_TILE_PX, and so that no side of the sheet is above MAX_SHEET_PX.
    """
    frames = [frame for panel in panels.values() for frame in panel]
    columns = _columns(len(frames))
    tile = min(len(frames[0]), MAX_TILE_PX, MAX_SHEET_PX // columns)
    sheet = Image.new("RGB", (columns * tile, _rows(len(frames)) * tile), "white")
    for place, frame in enumerate(frames):
        view = Image.fromarray(frame).resize((tile, tile), Image.Resampling.BICUBIC)
        sheet.paste(view, (place % columns * tile, place // columns * tile))
    data = io.BytesIO()
    sheet.save(data, "WEBP", quality=QUALITY)
    return data.getvalue()


def turntable(sheet: bytes, panels: dict[str, int], about: str) -> str:
    """Return the HTML of a sheet. `panels` holds how many frames each panel has: all views of the orbit, or one still picture.

    `about` says to those who see nothing what is shown.
    """
    num_tiles = sum(panels.values())
    num_views = max(panels.values())
    parts = []
    first = 0
    for label, count in panels.items():
        view = f'<div class="view" data-first="{first}" data-count="{count}"></div>'
        still = ' class="still"' if count == 1 else ""
        parts.append(f"<figure{still}>{view}<figcaption>{escape(label)}</figcaption></figure>")
        first += count
    source = f"url(data:image/webp;base64,{base64.b64encode(sheet).decode()})"
    size = f"--columns:{_columns(num_tiles)};--rows:{_rows(num_tiles)}"
    slider = f'role="slider" tabindex="0" aria-valuemin="0" aria-valuemax="{num_views - 1}" aria-valuenow="0"'
    return (
        f'<turn-table style="{size};--sheet:{source}" data-views="{num_views}">'
        f'<div class="stage" {slider} aria-label="{escape(about)}">{"".join(parts)}</div>'
        '<p class="dial"><button type="button">turn</button><span></span></p></turn-table>'
    )


def page(title: str, body: str, style: str = "") -> str:
    """Return a whole page, with the style and the script of its turntables. `body` and `style` are HTML and CSS."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{escape(title)}</title>'
        f'<link rel="icon" href="data:,"><style>{PAGE_STYLE}{STYLE}{style}</style>'
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}<script>{SCRIPT}</script></body></html>\n'


def _columns(num_tiles: int) -> int:
    return math.isqrt(num_tiles - 1) + 1


def _rows(num_tiles: int) -> int:
    return -(-num_tiles // _columns(num_tiles))
