"""A config is read as it was meant, or refused with every mistake by its name."""

import io
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from utils.config import dotted_keys, load_config, to_yaml
from utils.errors import UserError
from utils.schemas import CheckSettings, TrainConfig

ALL = Path(__file__).parents[2].glob("train_config/*.yaml")
SHIPPED = sorted(path for path in ALL if path.name != "tiny_base.yaml")  # which is of another command
MINIMAL = """
run: {name: x}
data: {root: r, meta: m}
model: {base: b}
train: {max_steps: 5}
validation: {meta: h}
"""


@pytest.fixture
def load(tmp_path):
    def load(text: str, *overrides: str) -> TrainConfig:
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return load_config(TrainConfig, [str(path), *overrides])

    return load


def test_the_home_folder_is_written_out_in_files_and_folders_of_yaml_and_words(load, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    text = (
        "run: {name: x, project: ~/p}\ndata: {root: ~/r, meta: s3://~/m}\nmodel: {base: ~/b}\ntrain: {max_steps: 5}\n"
    )
    cfg = load(text, "validation.meta=~/h", "run.dir=./~/d", "check.json=~")
    assert (cfg.data.root, cfg.model.base, cfg.validation.meta) == ("/home/ada/r", "/home/ada/b", "/home/ada/h")
    assert (cfg.run.project, cfg.run.dir, cfg.data.meta, cfg.check.json) == ("~/p", "./~/d", "s3://~/m", "/home/ada")
    assert cfg.data.local_cache == "~/.cache/svd_mv"  # a default stays as it is
    with pytest.raises(UserError, match=r"^~nobody_at_all/r: there is no such home folder$"):
        load(text, "validation.meta=h", "data.root=~nobody_at_all/r")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configs_load_and_survive_a_round_trip(path, tmp_path):
    cfg = load_config(TrainConfig, [str(path)])
    with open(tmp_path / "again.yaml", "w") as file:
        to_yaml(cfg, file)
    written = cfg.model_copy(update={"check": CheckSettings()})  # `check` is no part of a run, and is not written
    assert load_config(TrainConfig, [str(tmp_path / "again.yaml")]) == written


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_whatever_trains_the_real_weights_computes_blocks_again(path):
    model = load_config(TrainConfig, [str(path)]).model
    assert model.gradient_checkpointing == (model.base != "tiny_svd")


def test_three_configs_are_shipped_and_the_papers_recipe_is_the_papers():
    assert {path.name for path in SHIPPED} >= {"tiny_cpu.yaml", "train_local_svd_mv.yaml", "objaverse_576.yaml"}
    cfg = load_config(TrainConfig, ["train_config/objaverse_576.yaml"])
    assert cfg.train.batch_size * cfg.train.grad_accum_steps * 8 == 16
    assert (cfg.optim.learning_rate, cfg.train.max_steps, cfg.data.num_frames, cfg.data.size_px) == (
        1e-5,
        12000,
        21,
        576,
    )
    assert (cfg.noise.P_mean, cfg.noise.P_std, cfg.train.ema_decay) == (1.0, 1.6, 0.9999)


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "0.00001", ".1e-4"])
def test_a_learning_rate_is_a_float_however_it_is_written(load, text):
    assert load(MINIMAL + f"optim: {{learning_rate: {text}}}").optim.learning_rate == pytest.approx(1e-5)
    assert load(MINIMAL, f"optim.learning_rate={text}").optim.learning_rate == pytest.approx(1e-5)


@pytest.mark.parametrize(
    "override",
    [
        "run.seed=true", "run.seed=1.0", "run.seed='1'", "run.seed=1:30", "run.seed=-1", "optim.learning_rate=nan",
        "optim.learning_rate=.nan", "optim.learning_rate=.inf", "optim.learning_rate=true", "optim.learning_rate='1e-5'",
        "model.gradient_checkpointing=1", "model.gradient_checkpointing=yes", "optim.name=adam", "optim.betas=[0.9]",
        "data.size_px=100", "noise.cond_dropout=1.5", "model.added_time_ids=[elevation]", "model.added_time_ids=[]",
        "model.added_time_ids=[fps_id, fps_id]", "run.name=../x", "run.name=", "data.object_fill=0",
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_refused_by_name(load, override):
    with pytest.raises(UserError, match=override.split("=")[0].replace(".", r"\.")):
        load(MINIMAL, override)


def test_all_errors_come_at_once_with_dotted_paths(load):
    with pytest.raises(UserError) as error:
        load(
            "run: {seed: x}\ndata: {root: r}\nmodle: {}\nmodel: {base: b}\ntrain: {max_step: 5}\nvalidation: {meta: h}"
        )
    message = str(error.value)
    for part in ("run.name: missing", "run.seed:", "data.meta: missing", "train.max_steps: missing",
                 "train.max_step: unknown key; did you mean train.max_steps?", "modle: unknown key; did you mean model?"):  # fmt: skip  # noqa: E501
        assert part in message
    assert "\n" not in message


def test_overrides_win_and_texts_stay_as_typed(load):
    cfg = load(MINIMAL, "run.name=001", "train.max_steps=7", "model.added_time_ids=[noise_aug_strength, elevation_deg]")
    assert (cfg.run.name, cfg.train.max_steps) == ("001", 7)
    assert cfg.model.added_time_ids == ("noise_aug_strength", "elevation_deg")


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("run: {name: x}\nrun: {name: y}", r"c\.yaml:2"),
        ("run: [", r"c\.yaml:1"),
        ("just words", "expected sections"),
        ("run: !!python/object/apply:os.system ['true']", r"c\.yaml:1"),
        ("run: 5", "run: "),
        ("validation: {guidance_min: 3, guidance_max: 2, meta: x}", "guidance_min 3.0 is above guidance_max 2.0"),
    ],
)
def test_a_broken_yaml_names_the_place(load, text, fragment):
    with pytest.raises(UserError, match=fragment):
        load(text)


def test_config_is_frozen(load):
    with pytest.raises(ValueError, match="frozen"):
        load(MINIMAL).optim.learning_rate = 1.0


def test_resolved_yaml_holds_every_key_of_the_run(load):
    """And none of `check`, which is no part of it."""
    text = io.StringIO()
    to_yaml(load(MINIMAL), text)
    resolved = YAML(typ="safe").load(text.getvalue())
    expected = {key for key in dotted_keys(TrainConfig) if not key.startswith("check.")}
    assert {f"{section}.{key}" for section, keys in resolved.items() for key in keys} == expected
