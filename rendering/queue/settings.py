"""OUT/render.json: the settings that make the pictures, so that one folder holds orbits of one kind.

A folder belongs to the renderer that it was begun with. Another one is its guest: it may draw what that one refused, with the
same settings but for the rays.
"""

from collections.abc import Sequence
from pathlib import Path

from rendering.light import describe_hdris
from rendering.queue.output import Output
from utils.config import to_json
from utils.errors import UserError
from utils.schemas_render import RenderConfig

# The keys of `render` that make the pictures; so do the section `filter` and the maps in `hdris`.
ELEVATIONS = ("elevation_min_deg", "elevation_max_deg")
FIXED_KEYS = ("renderer", "num_views", "size_px", "num_samples", *ELEVATIONS, "seed", "format", "up_axis")
A_GUESTS_OWN = ("render.renderer", "render.num_samples")


def check_settings(cfg: RenderConfig, hdris: Sequence[Path] | None, output: Output) -> str | None:
    """Write the settings to OUT/render.json if it is new. Return the renderer that is asked for if it is a guest here.

    Raises UserError if the settings differ from what the file says.
    """
    given = to_json(cfg)
    now = {f"render.{key}": given["render"][key] for key in FIXED_KEYS}
    now["render.hdris"] = describe_hdris(hdris) if hdris else None
    now |= {f"filter.{key}": value for key, value in given["filter"].items()}
    now["render.licenses"] = ", ".join(sorted(cfg.render.licenses)) or None
    saved = {"render.licenses": now["render.licenses"]} | output.settings(now)  # folders from before it was saved go on
    guest = cfg.render.renderer if saved.get("render.renderer", cfg.render.renderer) != cfg.render.renderer else None
    compared = [key for key in now if not (guest and key in A_GUESTS_OWN)]
    if new := [key for key in compared if key not in saved]:
        raise UserError(f"{output.folder} was rendered before there was {', '.join(new)}: choose another render.out")
    changed = [f"{key}={saved[key]}" for key in compared if saved[key] != now[key]]
    if saved.get("render.hdris") and hdris and saved["render.hdris"] != now["render.hdris"]:
        changed.append(f"other files in {hdris[0].parent} than now ({now['render.hdris']})")
    if changed:
        raise UserError(f"{output.folder} was rendered with {', '.join(changed)}: choose another render.out")
    if guest and cfg.render.retry_failures:
        raise UserError(
            f"render.retry_failures: {output.folder} belongs to render.renderer={saved['render.renderer']}, which may"
            " retry its failures; another one only draws what that one refused"
        )
    return guest
