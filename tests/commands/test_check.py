"""`check` answers without network, data and weights, and measures through the path that trains."""

import json
import re
from pathlib import Path

import pytest

import main
from commands.check_measure import run_steps
from models.activations import Counter
from training.prediction import peak_tflops

TINY = ("check", "train_config/tiny_cpu.yaml", "data.size_px=32", "data.num_workers=0")


@pytest.fixture
def numbers(tmp_path):
    """Run check and return what it wrote."""

    def run(*words: str) -> dict:
        assert main.main([*words, f"check.json={tmp_path}/numbers.json"]) == 0
        return json.loads((tmp_path / "numbers.json").read_text())

    return run


@pytest.mark.slow  # half a minute each, for the real UNet is counted
@pytest.mark.parametrize(
    ("preset", "card"),
    [("gpu_16gb_lora", "16"), ("gpu_24gb_temporal", "24"), ("gpu_48gb_full", "48"), ("gpu_80gb_full", "80")],
)
def test_a_preset_fits_its_card_as_it_says_and_is_predicted_without_weights_and_data(preset, card, numbers, capsys):
    config = f"train_config/{preset}.yaml"
    said = re.search(r"launch with (\S+)\.\n# Predicted: ([\d.]+) GiB", Path(config).read_text())
    found = numbers("check", config, "data.meta=absent.jsonl")
    text = capsys.readouterr().out
    assert "# the data is not here and was not checked: no file data.meta=absent.jsonl" in text
    assert f"# Predicted, not measured, for {said[1]}: 1 process(es)" in text
    assert found["total_gib"] == max(found["peaks_gib"].values()) == pytest.approx(float(said[2]), abs=0.06)
    assert found["fits_gb"][card]
    assert 0 < found["activations_gib"] < found["total_gib"]
    if preset == "gpu_48gb_full":
        assert found["parameters"] == found["trained_parameters"] == 1_524_623_082
        assert 110 < found["tflop_per_orbit"] < 150
        assert found["encode_tflop_per_orbit"] == pytest.approx(30, rel=0.1)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("data.size_px=40",), "size_px=40: this model takes views whose side is a multiple of 16 pixels"),
        (
            ("optim.name=adamw_8bit", "check.launch_file=accelerate_config/deepspeed_zero_2_offload.yaml"),
            "optim.name=adamw_8bit cannot step in the CPU's memory",
        ),
    ],
)
def test_what_no_run_could_do_is_said_before_anything_is_counted(words, error, capsys):
    assert main.main([*TINY, *words]) == 2
    assert error in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA A10G", 70), ("NVIDIA A10", 125), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA H100 PCIe", 756),
     ("NVIDIA H100 80GB HBM3", 989), ("Tesla V100", None),
     ("NVIDIA RTX A1000", None), ("NVIDIA GeForce RTX 4090", 165), ("NVIDIA GeForce RTX 4090 Laptop GPU", None)],
)  # fmt: skip
def test_a_card_has_its_own_peak_and_not_that_of_one_whose_name_is_a_part_of_its(name, peak):
    assert peak_tflops(name) == peak


def test_what_is_there_and_wrong_still_fails(tmp_path, capsys):
    (tmp_path / "meta.jsonl").write_text("no json\n")
    assert main.main([*TINY, f"data.meta={tmp_path}/meta.jsonl"]) == 2
    assert "meta.jsonl:1" in capsys.readouterr().err


def test_steps_are_measured_beside_the_prediction_and_tensors_take_what_is_predicted(
    numbers, small_base, capsys, monkeypatch
):
    """A CPU's allocator keeps no peak, so the tensors that are alive in the steps are counted."""
    peaks = []

    def counted(*args):
        with Counter([]) as counter:
            seconds = run_steps(*args)
        peaks.append(counter.peak / 2**30)
        return seconds

    monkeypatch.setattr("commands.check_measure.run_steps", counted)
    base = f"model.base={small_base}"
    found = numbers(*TINY, base, "train.grad_accum_steps=2", "check.measure_steps=2", "check.peak_tflops=1")
    parts = {"data", "encode", "forward and backward", "optimizer", "average"}
    assert found["measured_ms"].keys() == parts and all(value > 0 for value in found["measured_ms"].values())
    seconds = sum(found["measured_ms"].values()) / 1000
    assert found["measured_orbits_per_s"] == pytest.approx(2 * 2 / seconds), "a batch of 2, and two micro-steps"
    work = found["tflop_per_orbit"] + found["encode_tflop_per_orbit"]
    assert found["measured_share_of_peak"] == pytest.approx(found["measured_orbits_per_s"] * work)
    assert found["measured_peak_gib"] > 0
    assert peaks == [pytest.approx(found["tensors_gib"], rel=0.15)]
    text = capsys.readouterr().out
    assert "# training all: 0.50 M of the UNet's 0.50 M parameters" in text
    assert "# Measured over 2 step(s) with random weights, on cpu; 1 process trains, under no engine" in text


def test_encoding_is_counted_for_the_views_that_training_reads(numbers, small_base):
    tiny = (*TINY, f"model.base={small_base}")
    assert numbers(*tiny, "data.cache=there_later")["encode_tflop_per_orbit"] > 0, "the input view"
    too_faint = ("data.cache=there_later", "noise.cond_P_std=0", "noise.cond_P_mean=-9.22", "check.measure_steps=1")
    found = numbers(*tiny, *too_faint)
    assert found["encode_tflop_per_orbit"] == 0
    assert found["measured_ms"]["encode"] > 0
