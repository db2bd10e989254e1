"""The report of an evaluation knows its protocols, and its table is safe to open."""

import csv
import io

import pytest

from evaluation.report import PROTOCOLS, protocol_differences, to_csv
from utils.config import load_config
from utils.errors import UserError
from utils.schemas import DataSettings, EvaluateConfig


def settings(out, *words):
    words = ("runs/none", "evaluate.meta=meta.jsonl", f"evaluate.out={out}", *words)
    return load_config(EvaluateConfig, list(words)).evaluate


@pytest.mark.parametrize(
    "name", ["published", "../evaluate_config/gso_svd_mv", "..", ".", "", "/etc/hosts", "*", "g" * 5000]
)
def test_only_the_protocols_of_the_folder_are_protocols(name):
    asked = settings("out", "evaluate.protocol=gso_svd_mv").model_copy(update={"protocol": name})
    with pytest.raises(UserError, match=r"there is no .*\.yaml in evaluate_config/"):
        protocol_differences(asked, DataSettings(root=".", meta="gso.jsonl"))
    assert (PROTOCOLS / "published.yaml").is_file()


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " =", "\r", "\n"])
def test_no_id_is_a_formula_to_a_spreadsheet(start):
    item = {
        "id": f"{start}cmd|' /C calc'!A0",
        "elevation_deg": -5.0,
        "metrics": {"sample": {"psnr": {"novel": 1, "all": 1}}},
    }
    [row] = csv.DictReader(io.StringIO(to_csv([item]), newline=""))
    assert row["id"].lstrip()[0] not in "=+-@" and row["id"].endswith(item["id"][1:]) and row["elevation_deg"] == "-5.0"
    [row] = csv.DictReader(io.StringIO(to_csv([item | {"id": "a=b"}])))
    assert row["id"] == "a=b"
