"""The keys of the commands that render. They are written as those in utils/schemas.py."""

from typing import Literal

from pydantic import model_validator

from utils.config import Section, key
from utils.schemas import MAX_ORBIT_PIXELS, TRAINED_ELEVATIONS_DEG, HeldOutPart, Seed


class RenderSettings(Section):
    assets: str = key(
        ..., "a folder of .glb .gltf .obj .ply .stl files, or a .txt of Objaverse uids, one a line", "folder or file"
    )
    out: str = key(..., "where orbits, svd_meta.jsonl and failures.jsonl are written", "folder")
    renderer: str = key("quick", "the renderer: quick or blender")
    executable: str | None = key(
        None, "a blender, or a Python that has bpy; null: look for one; the quick renderer takes none", "file"
    )
    device: Literal["cpu", "gpu"] = key("cpu", "where blender renders")
    num_views: int = key(21, "views of an orbit: 21, or 84 for four starts of 21", "views", ge=2, le=1000)
    size_px: int = key(576, "side of the square views", "pixels", ge=16, le=4096)
    num_samples: int = key(16, "rays for a pixel; a renderer may round the number", "rays", ge=1, le=65536)
    elevation_min_deg: float = key(
        TRAINED_ELEVATIONS_DEG[0], "lowest elevation; that of each object is drawn at random", "degrees", ge=-89, le=89
    )
    elevation_max_deg: float = key(TRAINED_ELEVATIONS_DEG[1], "highest elevation", "degrees", ge=-89, le=89)
    up_axis: Literal["auto", "y", "z"] = key(
        "auto", "what points up in .obj .ply .stl; auto: y in .obj, z in .ply and .stl; in glTF it is y"
    )
    hdris: str | None = key(None, "environment maps to light objects with; null: skies and lamps made by us", "folder")
    seed: Seed = key(0, "elevation and light of an object follow from the seed and its id")
    format: Literal["png", "webp"] = key("png", "file format of the views; both are without loss")
    num_processes: int = key(
        1, "objects rendered at a time; the machine's cores are divided among them", "processes", ge=1, le=1024
    )
    time_limit_s: float = key(1800.0, "an object that takes longer is a failure", "seconds", gt=0, le=2_592_000)
    memory_limit_gib: float = key(8.0, "an object whose renderer takes more memory is a failure", "GiB", gt=0, le=65536)
    max_asset_mib: float = key(
        512.0, "an asset that is larger, with its textures, is a failure", "MiB", gt=0, le=1_048_576
    )
    held_out: HeldOutPart | None = key(
        None,
        "orbits whose lines go to svd_meta_held_out.jsonl: a share (0.02) or a number (50), by a hash of the id",
        "0 to 1, or orbits",
    )
    retry_failures: bool = key(False, "render again the objects in failures.jsonl")
    licenses: tuple[str, ...] = key(
        (), "take only Objaverse objects under these licences, such as [by, by-sa, cc0]; empty: all"
    )
    sheet_rows: int = key(24, "orbits on accepted.png and rejected.png; 0: write none", "orbits", ge=0, le=1000)

    @model_validator(mode="after")
    def _elevations_in_order(self):
        if self.elevation_min_deg > self.elevation_max_deg:
            raise ValueError(
                f"elevation_min_deg {self.elevation_min_deg} is above elevation_max_deg {self.elevation_max_deg}"
            )
        return self

    @model_validator(mode="after")
    def _a_gpu_for_blender_alone(self):
        if self.renderer == "quick" and self.device == "gpu":
            raise ValueError("device=gpu: the quick renderer has no use for a GPU; renderer=blender has")
        return self

    @model_validator(mode="after")
    def _an_orbit_that_can_be_loaded(self):
        if (pixels := self.num_views * self.size_px**2) > MAX_ORBIT_PIXELS:
            raise ValueError(
                f"num_views of size_px are {pixels:,} pixels, and an orbit has at most {MAX_ORBIT_PIXELS:,}"
            )
        return self


class FilterSettings(Section):
    min_coverage: float = key(
        0.005, "smallest part of the frame that the object may fill in its largest view", "0 to 1", ge=0, le=1
    )
    min_opacity: float = key(0.2, "lowest mean alpha of the object's pixels", "0 to 1", ge=0, le=1)
    min_thickness: float = key(
        0.03, "lowest ratio of its thinnest side to its second thinnest, in the oriented box around it", ge=0, le=1
    )
    max_burnt: float = key(0.5, "largest part of its pixels with all channels at 250 or more", "0 to 1", ge=0, le=1)
    max_black: float = key(0.5, "largest part of its pixels with all channels at 5 or less", "0 to 1", ge=0, le=1)
    min_brightness: float = key(0.03, "lowest mean luma of its pixels", "0 to 1", ge=0, le=1)
    min_contrast: float = key(
        0.15,
        "lowest mean difference from white, in the channel that differs most, in any view; no pixel counts for more than 4/3 of it",
        "0 to 1",
        ge=0,
        le=1,
    )
    min_change: float = key(
        0.004, "lowest difference between the first view and the one that differs most", "0 to 1", ge=0, le=1
    )


class RenderConfig(Section):
    render: RenderSettings
    filter: FilterSettings = FilterSettings()


class DummyObjaverseSettings(Section):
    out: str = key("dummy_objaverse", "where the views are written; the jsonl files lie beside it", "folder")
    size_px: int = key(128, "side of the views", "pixels", ge=16, le=4096)


class DummyObjaverseConfig(Section):
    dummy_objaverse: DummyObjaverseSettings = DummyObjaverseSettings()
