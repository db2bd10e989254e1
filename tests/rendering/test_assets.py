"""Which assets there are, what they are called, and whose they are."""

import os
import random

import pytest

from rendering.queue.assets import MAX_CLASHES, SUFFIXES, Asset, AssetFolder
from tests.helpers.make_assets import make_good
from utils.division import Division, division_of, own_gpu, place_on_machine, processes_on_machine
from utils.errors import UserError


def test_ids_are_the_paths_without_suffix_and_companions_are_no_assets(tmp_path):
    ids = make_good(tmp_path)
    found = AssetFolder(tmp_path).assets
    assert [asset.id for asset in found] == ids
    assert found[2] == Asset("plants/leaf", "plants/leaf.gltf")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds no .glb, .gltf, .obj, .ply or .stl file"),
        (("notes.txt", ".hidden.glb", ".cache/a.glb"), "holds no .glb"),
        (("chair.GLB", "chair.glb"), "chair.GLB and chair.glb would both be object 'chair'"),
        (("g\th.glb", "g\nh.glb"), r"g\\th.glb and g\\nh.glb would both be object 'g_h'"),
        (("car.glb", "car/wheel.glb"), "car/wheel.glb would be rendered into the folder of car.glb's views"),
        (("failures.jsonl.glb",), "a name that render needs itself"),
    ],
)
def test_folders_that_cannot_be_rendered_are_refused(names, message, tmp_path):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=message):
        AssetFolder(tmp_path)


@pytest.mark.parametrize("count", [1, 2, 15, 40])
def test_all_clashes_are_in_one_message(count, tmp_path):
    for number in range(count):
        for name in (f"chair{number}.GLB", f"chair{number}.glb", f"car{number}.stl", f"car{number}/wheel.ply"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
    with pytest.raises(UserError) as error:
        AssetFolder(tmp_path)
    message = str(error.value)
    clashes = message.count("would both be object") + message.count("would be rendered into the folder of")
    assert clashes == min(2 * count, MAX_CLASHES)
    assert (f"; and {2 * count - MAX_CLASHES} more" in message) == (2 * count > MAX_CLASHES)


def test_of_an_object_in_several_formats_the_first_in_order_is_taken_and_the_rest_are_named(tmp_path):
    chance = random.Random(0)
    expected = []
    left_out = []
    for number in range(40):
        suffixes = chance.sample(SUFFIXES, chance.randint(1, len(SUFFIXES)))
        for suffix in suffixes:
            (tmp_path / f"{number:02d}{suffix}").touch()
        best = min(suffixes, key=SUFFIXES.index)
        expected.append(Asset(f"{number:02d}", f"{number:02d}{best}"))
        left_out += [f"{number:02d}{suffix}" for suffix in suffixes if suffix != best]
    found = AssetFolder(tmp_path)
    assert found.assets == expected
    assert sorted(found.left_out) == sorted(left_out)


def test_ids_can_stand_in_a_jsonl(tmp_path):
    (tmp_path / os.fsdecode(b"a\\b\n\xff.glb")).touch()
    assert [asset.id for asset in AssetFolder(tmp_path).assets] == ["a_b__"]
    assert AssetFolder(tmp_path).assets[0].source == os.fsdecode(b"a\\b\n\xff.glb")


def array(task: int, first: int, last: int, count: int) -> dict:
    names = ("ID", "MIN", "MAX", "COUNT")
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in zip(names, (task, first, last, count))}


def rank(index: int, count: int) -> dict:
    return {"RANK": str(index), "WORLD_SIZE": str(count)}


def step(index: int, count: int) -> dict:
    return {"SLURM_PROCID": str(index), "SLURM_STEP_NUM_TASKS": str(count)}


@pytest.mark.parametrize(
    "environments",
    [
        [{}],
        [
            {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}
        ],  # a batch script's own shell is one process, whatever it asked for
        [rank(index, 3) for index in range(3)],
        [step(index, 4) for index in range(4)],
        [array(task, 5, 8, 4) for task in range(5, 9)],
        [array(task, 1, 13, 5) for task in range(1, 14, 3)],
        [array(task, 7, 7, 1) for task in (7,)],
        [array(task, 1, 3, 3) | rank(index, 2) | step(0, 1) for task in (1, 2, 3) for index in range(2)],
    ],
)
def test_every_asset_is_in_exactly_one_share(environments):
    assets = [Asset(str(number), "") for number in range(101)]
    parts = [division_of(environment).of(assets) for environment in environments]
    assert sorted(asset.id for share in parts for asset in share) == sorted(asset.id for asset in assets)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (array(2, 1, 5, 3), "has gaps"),
        (array(5, 3, 8, 2) | {"SLURM_ARRAY_TASK_MAX": "9", "SLURM_ARRAY_TASK_COUNT": "3"}, "has gaps"),
        ({"SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_MIN must be a number, found ''"),
        ({"WORLD_SIZE": "2"}, "RANK must be a number"),
        (rank(2, 2), "process 2 of 2 cannot be"),
    ],
)
def test_divisions_that_would_lose_assets_are_refused(environment, message):
    with pytest.raises(UserError, match=message):
        division_of(environment)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 0),
        ({"LOCAL_RANK": "3"} | rank(11, 16), 3),
        (rank(1, 2), 1),
        (rank(1, 2) | {"SLURM_LOCALID": "0"}, 1),  # set by hand in a batch script
        (step(11, 16) | {"SLURM_LOCALID": "3"}, 3),
        ({"SLURM_LOCALID": "0"}, 0),
    ],
)
def test_a_process_knows_its_place_on_its_machine(environment, expected):
    assert place_on_machine(environment) == expected


LAUNCHED = {"LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"} | rank(7, 8)
SRUN = step(11, 11) | {"SLURM_LOCALID": "2", "SLURM_STEP_TASKS_PER_NODE": "4(x2),3"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (1, None)),
        ({"CUDA_VISIBLE_DEVICES": "4,5"}, (1, None)),
        (rank(1, 2), (1, None)),
        (LAUNCHED, (4, "3")),
        (LAUNCHED | {"CUDA_VISIBLE_DEVICES": "2,3,6,7"}, (4, "7")),
        (LAUNCHED | {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, (4, "GPU-b")),
        (LAUNCHED | {"CUDA_VISIBLE_DEVICES": ""}, (4, None)),  # hidden on purpose
        (SRUN, (4, "2")),
        (SRUN | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (4, "2")),
        (SRUN | {"CUDA_VISIBLE_DEVICES": "5"}, (4, "5")),  # srun gave each task its own
        (step(1, 2) | {"SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, (1, None)),
        (LAUNCHED | SRUN, (4, "3")),
    ],
)
def test_processes_that_share_a_machine_take_a_gpu_each(environment, expected):
    assert (processes_on_machine(environment), own_gpu(environment)) == expected


def test_a_share_is_every_nth():
    assert Division(1, 3).of([Asset(letter, "") for letter in "abcdef"]) == [Asset("b", ""), Asset("e", "")]
