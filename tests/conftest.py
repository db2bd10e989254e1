import contextlib
import gc
import os
from pathlib import Path
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"  # no test needs a hub
os.environ.setdefault("WANDB_MODE", "offline")
# The tests run in two processes, and the models are tiny: a second thread would only wait for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.helpers.launch import ROOT, server
from utils.config import load_config
from utils.schemas import TrainConfig


def pytest_configure(config):
    """Start the server of forks once for all processes of xdist, before they are started.

    Until all is imported there is no garbage collection: it would look at a million objects that stay.
    """
    gc.disable()
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        server()


def pytest_collection_finish():
    """Let the garbage collector leave alone what is imported, which it would look at again and again: 4 % of the suite."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    """Paths in a YAML are relative to the working folder."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def small_base(tmp_path_factory):
    """A base for tests to which any will do. Session-wide: whoever changes it works on a copy."""
    from tests.helpers.small_base import write_small_base

    folder = tmp_path_factory.mktemp("bases") / "small"
    write_small_base(folder)
    return folder


@pytest.fixture
def tiny_config(tmp_path, small_base):
    """tiny_cpu.yaml for a test: the small base, 7 views of 32 px, no workers, validation off, in a run folder of its own."""

    def make(*overrides: str) -> TrainConfig:
        fast = (
            f"run.dir={tmp_path}",
            "run.tracker=none",
            f"model.base={small_base}",
            "data.size_px=32",
            "data.num_frames=7",
            "data.num_workers=0",
            "validation.every_steps=0",
            "validation.before=false",
            "validation.num_training_records=0",
        )
        return load_config(TrainConfig, ["train_config/tiny_cpu.yaml", *fast, "train.log_every_steps=1", *overrides])

    return make


@pytest.fixture
def no_prediction(monkeypatch):
    """`check` without its prediction, which takes ten seconds, for the rest that it says. tests/commands/test_check.py has all."""
    monkeypatch.setattr("commands.check.predict", lambda cfg, launch: SimpleNamespace(to_json=dict))
    monkeypatch.setattr("commands.check.print_prediction", lambda prediction, cfg: None)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """A run of one step at 32 px, whose average and raw weights differ. Session-wide: whoever changes it works on a copy."""
    from commands.train import train

    fast = ("data.size_px=32", "data.num_workers=0", "validation.every_steps=0", "run.tracker=none")
    words = (f"run.dir={tmp_path_factory.mktemp('runs')}", "train.max_steps=1", "train.ema_warmup=true", *fast)
    words += ("optim.learning_rate=1e-3", "optim.warmup_steps=0")  # so that the elevation is seen to matter
    with contextlib.chdir(ROOT):
        cfg = load_config(TrainConfig, ["train_config/tiny_cpu.yaml", *words])
        train(cfg)
    return Path(cfg.run.dir, cfg.run.name)


@pytest.fixture(scope="session")
def svd():
    """The committed tiny SVD. Session-wide: whoever changes it works on a copy."""
    from models.svd import find_parts, load_svd

    cfg = load_config(TrainConfig, [str(ROOT / "train_config/tiny_cpu.yaml"), f"model.base={ROOT / 'tiny_svd'}"])
    return load_svd(find_parts(cfg.model), cfg.model)


@pytest.fixture(scope="session")
def orbit_views():
    """1 21 3 64 64 in 8 bits: the first training orbit."""
    from dataset.records import Records
    from dataset.views import WHITE, load_views
    from utils.schemas import DataSettings

    data = DataSettings(root=str(ROOT / "dummy_objaverse"), meta=str(ROOT / "svd_meta.jsonl"), size_px=64)
    return load_views(Records(data.meta, 21)[0], data, 0, WHITE)[0][None]


@pytest.fixture(scope="session")
def orbit_pixels(orbit_views):
    """1 21 3 64 64 in [-1, 1]: the same."""
    from dataset.images import to_float

    return to_float(orbit_views)


@pytest.fixture
def random():
    import torch

    return torch.Generator().manual_seed(0)
