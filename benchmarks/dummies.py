"""The 20 dummies, for the pictures of what a model draws of them."""

import numpy as np

from dataset.records import OrbitRecord, Records
from dataset.views import WHITE, load_views
from utils.schemas import DataSettings

DATA = DataSettings(root="dummy_objaverse", meta="svd_meta.jsonl", size_px=64)


def read_dummies() -> dict[str, OrbitRecord]:
    """Return {id: record}, those that are trained on first."""
    metas = (DATA.meta, "svd_meta_held_out.jsonl")
    return {record.id: record for meta in metas for record in Records(meta, DATA.num_frames)}


def views_of(record: OrbitRecord) -> np.ndarray:
    """Return all views on white, F H W 3 in 8 bits."""
    return load_views(record, DATA, 0, WHITE)[0].permute(0, 2, 3, 1).numpy()
