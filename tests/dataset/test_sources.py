"""The same samples, bit for bit, wherever the data lie."""

from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from dataset.archive_index import add_archive
from dataset.order import Share
from dataset.records import Records
from dataset.views import WHITE, OrbitViews, collate, load_orbit, try_images
from tests.helpers.archives import pack
from tests.helpers.orbits import NUM_RECORDS, write_orbits
from tests.helpers.web import serving
from utils import retries
from utils.errors import UserError

STEPS = 4


@pytest.fixture(scope="module")
def orbits(tmp_path_factory):
    """A data set in files, tars and zips, with a jsonl for each: meta, tar and zip. A name has a space in it."""
    folder = tmp_path_factory.mktemp("a b")
    data = write_orbits(folder, "set {record}/{view}.png")
    lines = Path(data.meta).read_bytes().splitlines()
    for form in ("ustar", "zip"):
        suffix = form.removeprefix("us")
        for record in range(NUM_RECORDS):
            (folder / f"set {record}.tar").unlink(missing_ok=True)
            pack(folder, f"set {record}", form)
        texts = [add_archive(line, "meta", folder)[0] for line in lines]
        (folder / f"{suffix}.jsonl").write_text("\n".join(texts))
        if suffix == "tar":
            tars = {path.name: path.read_bytes() for path in folder.glob("*.tar")}
    for name, content in tars.items():
        (folder / name).write_bytes(content)
    return data


@pytest.fixture(scope="module")
def contents(orbits):
    root = Path(orbits.root)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def web(contents):
    with serving() as server:
        server.files |= contents
        yield server


@pytest.fixture(scope="module")
def bucket(contents):
    """The same in a bucket of a server that speaks S3's protocol."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="orbits")
        for path, content in contents.items():
            client.put_object(Bucket="orbits", Key=f"v1/{path}", Body=content)
        yield "s3://orbits/v1"
    server.stop()


@pytest.fixture
def place(request, tmp_path, orbits, monkeypatch):
    """A function that gives the settings for a place by its name."""
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)

    def settings(kind: str, meta: str = "meta"):
        if kind == "path":
            root = orbits.root
        elif kind == "memory":
            import fsspec

            files = request.getfixturevalue("contents")
            fsspec.filesystem("memory").pipe({f"/orbits/{path}": content for path, content in files.items()})
            root = "memory://orbits"
        else:
            root = request.getfixturevalue("web").url if kind == "http" else request.getfixturevalue("bucket")
        update = {"root": root, "meta": f"{root}/{meta}.jsonl", "local_cache": str(tmp_path / "local")}
        return orbits.model_copy(update=update)

    return settings


def samples(data, first: int = 0, num_workers: int = 0):
    views = OrbitViews(Records(data.meta, 4, data.local_cache), data, seed=3)
    numbers = Share(0, 1, 2, 1).micro_batches(first, STEPS - first // 2)
    return list(DataLoader(views, batch_sampler=numbers, num_workers=num_workers, collate_fn=collate))


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.n == other.n and one.pixels.equal(other.pixels) and one.elevation_deg.equal(other.elevation_deg)


PLACES = ["path-tar", "path-zip", "http-meta", "http-tar", "http-zip", "memory-meta", "s3-meta", "s3-tar"]


@pytest.mark.parametrize(("kind", "meta"), [place.split("-") for place in PLACES], ids=PLACES)
def test_samples_are_the_same_from_everywhere(place, orbits, kind, meta):
    assert_same(samples(place(kind, meta)), samples(orbits))


@pytest.mark.parametrize(("kind", "meta"), [("http", "tar"), ("s3", "zip")])
def test_loading_processes_read_the_same_also_where_the_training_process_has_read_before(place, orbits, kind, meta):
    data = place(kind, meta)
    try_images(Records(data.meta, 4, data.local_cache), data)
    assert_same(samples(data, num_workers=2), samples(orbits))


def test_a_run_that_resumes_reads_the_samples_that_come_next_with_failures_in_between(place, orbits, web):
    data = place("http", "tar").model_copy(update={"local_cache_gib": 0.001})
    whole = samples(data)
    for path in web.files:
        web.faults[path] = [503, "reset"]
    resumed = samples(data.model_copy(update={"local_cache": data.local_cache + "2"}), first=4)
    web.faults.clear()
    assert_same(resumed, whole[2:])


def test_an_orbit_in_an_archive_takes_one_request_and_one_in_files_one_for_each_view(place, web):
    for meta, count in (("tar", 1), ("zip", 1), ("meta", 4)):
        data = place("http", meta)
        record = Records(data.meta, 4, data.local_cache)[2]
        web.requests.clear()
        load_orbit(record, data, 1, WHITE)
        assert len(web.requests) == count


def test_of_an_archive_only_the_bytes_of_the_views_are_read(place, web):
    data = place("http", "tar")
    record = Records(data.meta, 4, data.local_cache)[0]
    web.sent.clear()
    web.requests.clear()
    load_orbit(record, data.model_copy(update={"num_frames": 2}), 0, WHITE)
    begin, end = record.archive.members[4][0], record.archive.members[0][1]
    assert web.requests == [("set 0.tar", f"bytes={begin}-{end - 1}")], "packed last to first"
    assert sum(web.sent.values()) == end - begin < record.archive.size / 2


@pytest.mark.parametrize(
    ("kind", "meta", "fault", "fragment"),
    [
        ("http", "meta", [404], r"set%202/\d\.png: cannot be read: no such file$"),
        ("http", "tar", ["reset"] * 9, r"set%202\.tar: cannot be read: .*4 times$"),
    ],
)
def test_an_error_names_the_address_and_the_record_through_a_loading_process_too(
    place, web, kind, meta, fault, fragment
):
    data = place(kind, meta)
    for path in web.files:
        if path.startswith("set 2"):
            web.faults[path] = list(fault)
    with pytest.raises(UserError, match=rf"{web.url}/{meta}\.jsonl:3: {web.url}/{fragment}"):
        samples(data, num_workers=1)
    web.faults.clear()


def test_what_s3_has_not_is_one_error_at_once(place, bucket):
    data = place("s3")
    record = Records(data.meta, 4, data.local_cache)[0]
    data = data.model_copy(update={"root": "s3://orbits/v2"})
    with pytest.raises(
        UserError, match=r"^s3://orbits/v1/meta\.jsonl:1: s3://orbits/v2/set 0/0\.png: cannot be read: no"
    ):
        load_orbit(record, data, 0, WHITE)
    with pytest.raises(UserError, match=r"^s3://nobody/meta\.jsonl: cannot be read: no such file$"):
        Records("s3://nobody/meta.jsonl", 4, data.local_cache)


def test_a_path_never_passes_through_fsspec(place, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    for meta in ("meta", "tar"):
        assert len(samples(place("path", meta))) == STEPS


def test_an_image_far_too_large_is_not_read_to_its_end(place, web, monkeypatch):
    monkeypatch.setattr("dataset.sources.MAX_IMAGE_BYTES", 50)
    data = place("http")
    with pytest.raises(UserError, match=r"meta\.jsonl:1: .*0\.png: is larger than"):
        load_orbit(Records(data.meta, 4, data.local_cache)[0], data, 0, WHITE)
