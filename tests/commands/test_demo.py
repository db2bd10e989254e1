"""`demo` gives what `sample` gives, refuses bad uploads in words, keeps users apart, and cleans up behind itself."""

import importlib.util
import io
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import main
from commands.demo import allowed_hosts, listening
from commands.demo_studio import SamplingStopped, Studio, remove_oldest
from commands.sample import as_trained
from tests.helpers.browser import drag, needs_browser, open_browser, open_page
from tests.helpers.launch import Fork
from training.launch import launched_accelerator
from training.saved_model import find_saved_model, load_saved_model
from utils.config import load_config
from utils.errors import UserError
from utils.schemas import DemoConfig

IMAGE = Path("dummy_objaverse/017/003.png").absolute()
needs_gradio = pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="needs pip install gradio")
CHOICES = {"elevation_deg": 12, "seeds": [3], "num_inference_steps": 2}


@pytest.fixture(scope="module")
def studio(trained_run, tmp_path_factory):
    settings = load_config(DemoConfig, [str(trained_run)]).demo
    saved = find_saved_model(settings)
    svd = load_saved_model(saved, launched_accelerator())
    return Studio(svd, saved, as_trained(settings, saved), "no", tmp_path_factory.mktemp("demo"))


def test_the_zip_holds_what_sample_writes_for_the_same_image_and_seed(studio, trained_run, tmp_path):
    steps = []
    html, archive = studio.sample(IMAGE, False, CHOICES, "a", steps.append)
    assert steps == [1, 2] and 'data-views="21"' in html
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "ours")
    words = (
        "sample.elevation_deg=12",
        "sample.seeds=[3]",
        "sample.num_inference_steps=2",
        f"sample.out={tmp_path}/theirs",
    )
    assert main.main(["sample", str(trained_run), f"sample.image={IMAGE}", *words]) == 0
    files = {path.name for path in (tmp_path / "ours/003/seed_3").iterdir()}
    assert files == {path.name for path in (tmp_path / "theirs/003/seed_3").iterdir()} and len(files) == 27
    for name in files - {"sample.json", "index.html"}:  # these two tell the folder of the image
        ours, theirs = (tmp_path / place / "003/seed_3" / name for place in ("ours", "theirs"))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert str(studio.folder) not in (tmp_path / "ours/003/seed_3/sample.json").read_text()
    assert [path for path in studio.folder.rglob("*") if path.is_file()] == [archive], (
        "of the result, only the zip stays"
    )


def test_stop_ends_what_its_own_session_samples_and_nothing_else(studio):
    with pytest.raises(SamplingStopped):
        studio.sample(IMAGE, False, CHOICES, "a", lambda step: studio.stop("a"))
    studio.stop("nobody")
    _, archive = studio.sample(IMAGE, False, CHOICES, "a", lambda step: studio.stop("b"))
    assert archive.is_file()


def test_stop_ends_what_waits_for_another_session_too(studio):
    """`b` waits while `a` samples, and is stopped before its turn comes."""
    steps = {"a": 0, "b": 0}
    ended = []

    def wait_in_vain():
        with pytest.raises(SamplingStopped):
            studio.sample(IMAGE, False, CHOICES, "b", lambda step: steps.update(b=step))
        ended.append("b")

    waiting = threading.Thread(target=wait_in_vain)

    def on_step(step: int) -> None:
        steps["a"] = step
        if step == 1:
            waiting.start()
            while not any(owner == "b" for owner, _ in studio._stops):
                time.sleep(0.01)
            studio.stop("b")

    studio.sample(IMAGE, False, CHOICES, "a", on_step)
    waiting.join(60)
    assert ended == ["b"] and steps == {"a": 2, "b": 0}
    assert not studio._stops


@pytest.mark.parametrize(
    ("choices", "fragment"),
    [
        ({"seeds": [-1]}, "seeds.0: input should be greater than or equal to 0"),
        ({"seeds": [None]}, "seeds.0: "),
        ({"elevation_deg": 91}, "elevation_deg: "),
        ({"elevation_deg": None}, "elevation_deg is missing"),
        ({"guidance_min": 3.0, "guidance_max": 2.0}, "guidance_min 3.0 is above guidance_max 2.0"),
        ({"num_inference_steps": 1e9}, "num_inference_steps: "),
    ],
)
def test_a_wrong_choice_is_named(studio, choices, fragment):
    """What is chosen comes from a browser, so it can be anything."""
    with pytest.raises(UserError, match=fragment):
        studio.sample(IMAGE, False, CHOICES | choices, "a", lambda step: None)


def bad_upload(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.png"
    whole = IMAGE.read_bytes()
    content = {
        "text": b"not a picture",
        "empty": b"",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "truncated": whole[: len(whole) // 2],
    }
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":  # of 12 KB
        Image.new("1", (10_000, 10_000)).save(path)
    else:
        path.write_bytes(content[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "fragment"),
    [
        ("text", "not an image file"),
        ("empty", "not an image file"),
        ("eps", "not an image file"),
        ("svg", "not an image file"),
        ("truncated", "damaged or unreadable image"),
        ("huge", "announces more than"),
        ("pipe", "not a regular file"),
    ],
)
def test_a_bad_upload_is_refused_by_its_name_without_its_path(studio, tmp_path, kind, fragment):
    path = bad_upload(tmp_path, kind)
    with pytest.raises(UserError, match=fragment) as caught:
        studio.look(path, False)
    assert str(caught.value).startswith(f"{kind}.png: ") and str(tmp_path) not in str(caught.value)


def test_the_oldest_files_go_when_there_are_too_many_bytes(tmp_path):
    for age, name in enumerate(("new", "middle", "old")):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "file"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))
    remove_oldest(tmp_path, 250)
    assert sorted(path.parent.name for path in tmp_path.rglob("file")) == ["middle", "new"]


def test_more_sessions_than_may_wait_are_told_so(studio, monkeypatch):
    monkeypatch.setattr(studio, "_stops", {(str(number), threading.Event()) for number in range(17)})
    with pytest.raises(UserError, match="16 others wait already: try again later"):
        studio.sample(IMAGE, False, CHOICES, "late", lambda step: None)


@pytest.mark.parametrize(("name", "code"), [("[::1]:7860", 200), ("localhost:7860", 200), ("rebound.example", 400)])
def test_the_page_answers_to_the_address_that_is_printed(name, code):
    middleware = pytest.importorskip("starlette.middleware.trustedhost")
    testclient = pytest.importorskip("starlette.testclient")
    responses = pytest.importorskip("starlette.responses")
    page = middleware.TrustedHostMiddleware(responses.PlainTextResponse("page"), allowed_hosts("::1"))
    assert testclient.TestClient(page).get("/", headers={"host": name}).status_code == code


def test_it_listens_on_the_loopback_address_only_unless_told(tmp_path):
    settings = load_config(DemoConfig, [str(tmp_path)]).demo
    with listening(settings.host, 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    assert "*" not in allowed_hosts("127.0.0.1") and "*" not in allowed_hosts("::1")
    assert allowed_hosts("0.0.0.0") == ["*"]


def test_a_taken_port_is_one_line(trained_run, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main.main(["demo", str(trained_run), f"demo.port={port}"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: demo.host=127.0.0.1 demo.port={port}: cannot listen there: Address already in use\n"


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1", ""])
def test_an_address_that_is_not_ours_is_one_line(trained_run, capsys, host):
    assert main.main(["demo", str(trained_run), f"demo.host={host}", "demo.port=0"]) == 2
    error = capsys.readouterr().err
    assert "demo.host" in error and error.count("\n") == 1


def test_gradio_missing_is_one_line(trained_run, monkeypatch, capsys):
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")  # so that it is as before at the end
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main.main(["demo", str(trained_run), "demo.port=0"]) == 2
    error = capsys.readouterr().err
    assert "demo needs `pip install 'gradio" in error and error.count("\n") == 1


@pytest.fixture(scope="module")
def process(trained_run):
    words = ("demo", str(trained_run), "demo.port=0", "demo.num_inference_steps=2")
    process = Fork("main.py", *words)
    yield process
    if process.returncode is None:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def address(process):
    for line in process.stdout:
        if line.startswith("http://127.0.0.1:"):
            return line.split()[0] + "/"
    pytest.fail("it ended before it said its address")


@pytest.fixture(scope="module")
def temporary(process, address):
    [folder] = Path(tempfile.gettempdir()).glob(f"svd_mv_demo.{process.pid}.*")
    return folder


@needs_gradio
@needs_browser
def test_in_a_browser_one_uploads_samples_turns_and_downloads_and_a_bad_upload_is_told(address, tmp_path):
    with open_browser() as browser:
        page, wrong = open_page(browser, address, viewport={"width": 1200, "height": 1000}, reduced_motion="reduce")
        page.locator("#image input[type=file]").set_input_files(bad_upload(tmp_path, "text"))
        page.locator("#said .bad", has_text="text.png: not an image file").wait_for()
        page.locator("#image input[type=file]").set_input_files(IMAGE)
        page.locator("#orbit img").wait_for()
        page.locator("#seed input").fill("3")
        page.locator("#elevation input[type=number]").fill("12")
        page.locator("#go").click()
        stage = page.get_by_role("slider", name="the views that were sampled")
        stage.wait_for()
        assert stage.get_attribute("aria-valuenow") == "0"
        drag(page, stage, dx=round(-page.locator("turn-table .view").last.bounding_box()["width"] / 2))
        assert stage.get_attribute("aria-valuenow") == "5", "a quarter of a turn"
        with page.expect_download() as download:
            page.locator("#download").click()
        assert download.value.suggested_filename == "003_seed_3.zip"
        with zipfile.ZipFile(download.value.path()) as file:
            about = json.loads(file.read("003/seed_3/sample.json"))
            assert {f"003/seed_3/{name}" for name in about["files"]} <= {*file.namelist()}
        assert about["elevation_deg"] == 12 and about["settings"]["num_inference_steps"] == 2
        other, wrong_there = open_page(browser, address)
        other.locator("#go").wait_for()
        assert other.locator("turn-table").count() == 0 and other.locator("#download").is_disabled()
        assert wrong == wrong_there == [], "no error, and nothing fetched from anywhere else"


def ask(address: str, data: bytes | None = None, **headers: str) -> tuple[int, dict]:
    request = urllib.request.Request(address, data, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return answer.status, dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers)


@needs_gradio
def test_the_server_answers_to_its_own_name_gives_no_other_file_and_takes_no_huge_one(address, temporary):
    status, headers = ask(address)
    assert status == 200 and headers["content-security-policy"].startswith("default-src 'self'")
    assert ask(address, Host="evil.example")[0] == 400
    for path in ("/etc/passwd", f"{Path.cwd()}/README.md"):
        assert ask(f"{address}gradio_api/file={path}")[0] in (403, 404)
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    multipart = {"Content_Type": "multipart/form-data; boundary=x"}
    assert ask(f"{address}gradio_api/upload", head + bytes(33 << 20) + b"\r\n--x--\r\n", **multipart)[0] == 413
    assert not [path for path in temporary.rglob("*") if path.is_file() and path.stat().st_size > 30 << 20]
    small = io.BytesIO()
    Image.new("RGB", (32, 32)).save(small, "PNG")
    assert ask(f"{address}gradio_api/upload", head + small.getvalue() + b"\r\n--x--\r\n", **multipart)[0] == 200


def answer_to(address: str, upload: object) -> str:
    """Return what the server answers to a browser that says it has uploaded this."""
    with urllib.request.urlopen(f"{address}config") as config:
        functions = json.load(config)["dependencies"]
    look = next(function["id"] for function in functions if "upload" in [target[1] for target in function["targets"]])
    call = {"data": [upload, False], "fn_index": look, "session_hash": str(upload)}
    body = json.dumps(call).encode()
    assert ask(f"{address}gradio_api/queue/join", body, Content_Type="application/json")[0] == 200
    session = urllib.parse.quote(str(upload))
    with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash={session}") as events:
        return next(line.decode() for line in events if b"process_completed" in line)


@needs_gradio
@pytest.mark.parametrize(
    "path", [str(IMAGE), "/etc/passwd", "../README.md", "http://example.com/a.png", "", 7, None, []]
)
def test_no_file_or_address_but_an_upload_is_opened(address, temporary, path):
    upload = {"path": path, "meta": {"_type": "gradio.FileData"}}
    before = {*temporary.rglob("*")}
    answer = json.loads(answer_to(address, upload).removeprefix("data: "))
    refused = not answer["success"] or "the image is no upload" in str(answer) or "no such file" in str(answer)
    assert refused and {*temporary.rglob("*")} == before, answer
    if "http" in str(path):
        assert answer["output"]["error"] == "an upload is a file, not an address"


@needs_gradio
def test_ctrl_c_stops_it_and_leaves_no_file(process, address, temporary):
    """The last test of the file: it ends the server of the others."""
    assert temporary.is_dir()
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and output.endswith("stopped\n"), output
    assert "KeyboardInterrupt" not in output and "Cancelled" not in output and not temporary.exists()
