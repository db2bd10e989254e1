import io

import pytest

from utils.config import load_config, to_json, to_yaml
from utils.errors import UserError
from utils.schemas import EvaluateSettings, TrainConfig
from utils.urls import is_remote, joined, redacted

SIGNED = "https://me:PASSWORD@host/a?sig=SIGNATURE"


def test_a_path_is_no_address_and_an_address_is():
    assert not any(map(is_remote, ("orbits", "/data/orbits", "~/orbits", "a:b/c", "./s3:/x", "")))
    assert all(map(is_remote, ("s3://bucket/a", "https://host/a", "hf://datasets/me/set", "S3://bucket")))


def test_an_image_lies_below_the_root_and_a_signature_stays_at_the_end():
    assert joined("s3://bucket/a/", "b c/0.png") == "s3://bucket/a/b c/0.png"
    assert joined("https://host/a", "b c/0#?.png") == "https://host/a/b%20c/0%23%3F.png"
    assert joined("https://host/a?sig=x%2F", "0.png") == "https://host/a/0.png?sig=x%2F"


def test_user_password_and_query_are_hidden_and_a_path_is_not():
    assert redacted(SIGNED) == "https://***@host/a?***"
    assert redacted("https://me:a@b@host/x@y/z") == "https://***@host/x@y/z"
    assert redacted("/data/what?.jsonl") == "/data/what?.jsonl"


def test_whatever_is_written_of_a_config_shows_no_secret():
    words = [f"{key}={SIGNED}" for key in ("data.root", "data.meta", "data.cache", "validation.meta")]
    cfg = load_config(TrainConfig, ["train_config/tiny_cpu.yaml", *words])
    assert cfg.data.root == cfg.validation.meta == SIGNED
    text = io.StringIO()
    to_yaml(cfg, text)
    evaluate = EvaluateSettings(checkpoint="a", out="b", meta=SIGNED, root=SIGNED)
    for written in (text.getvalue(), str(to_json(cfg)), cfg.validation.model_dump_json(), str(evaluate.model_dump())):
        assert "https://***@host/a?***" in written
        assert "PASSWORD" not in written and "SIGNATURE" not in written


@pytest.mark.parametrize(
    ("word", "fragment"),
    [
        ("data.root=ftp://host/a", "begins with ftp://, which is not read"),
        ("data.meta=file:///a", "begins with file://"),
        ("data.cache=hf://me/set", "hf://datasets/OWNER/NAME/PATH"),
    ],
)
def test_an_address_that_cannot_be_read_is_refused_with_the_config(word, fragment):
    with pytest.raises(UserError, match=fragment):
        load_config(TrainConfig, ["train_config/tiny_cpu.yaml", word])
