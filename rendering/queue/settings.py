"""OUT/render.json: the settings that make the pictures, so that one folder holds orbits of one kind."""

from collections.abc import Sequence
from pathlib import Path

from rendering.light import describe_hdris
from rendering.queue.output import Output
from utils.config import to_json
from utils.errors import UserError
from utils.schemas_render import RenderConfig

# The keys of `render` that make the pictures; so do the section `filter` and the maps in `hdris`.
ELEVATIONS = ("elevation_min_deg", "elevation_max_deg")
FIXED_KEYS = ("renderer", "num_views", "size_px", "num_samples", *ELEVATIONS, "seed", "format")


def check_settings(cfg: RenderConfig, hdris: Sequence[Path] | None, output: Output) -> None:
    """Write the settings to OUT/render.json if it is new. Raises UserError if they differ from what it says."""
    given = to_json(cfg)
    now = {f"render.{key}": given["render"][key] for key in FIXED_KEYS}
    now["render.hdris"] = describe_hdris(hdris) if hdris else None
    now |= {f"filter.{key}": value for key, value in given["filter"].items()}
    saved = output.settings(now)
    changed = [f"{key}={saved.get(key)}" for key in now if saved.get(key) != now[key]]
    if saved.get("render.hdris") and hdris and saved["render.hdris"] != now["render.hdris"]:
        changed.append(f"other files in {hdris[0].parent} than now ({now['render.hdris']})")
    if changed:
        raise UserError(f"{output.folder} was rendered with {', '.join(changed)}: choose another render.out")
