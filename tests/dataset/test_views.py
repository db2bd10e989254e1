import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import dataset.sources
from dataset import views as dataset_views
from dataset.order import Share
from dataset.records import Records
from dataset.views import WHITE, OrbitViews, collate, load_orbit, try_images
from tests.helpers.orbits import NUM_RECORDS, NUM_VIEWS, write_orbits
from utils.errors import UserError
from utils.schemas import DataSettings


@pytest.fixture
def data(tmp_path):
    return write_orbits(tmp_path)


def record_and_views(pixels):
    """Read from the colours of F 3 H W which record it is, and which view each frame is."""
    levels = pixels[:, :, 4, 4]
    return round(levels[0, 0].item() / 40), (levels[:, 1] / 30).round().int().tolist()


def test_an_orbit_starts_anywhere_and_always_goes_once_around_in_equal_strides(data):
    views = OrbitViews(Records(data.meta, data.num_frames), data, seed=0)
    starts = set()
    for n in range(60):
        orbit = views[n]
        record, shown = record_and_views(orbit.pixels)
        assert [(view - shown[0]) % NUM_VIEWS for view in shown] == [0, 2, 4, 6]
        assert orbit.elevation_deg.item() == pytest.approx(record + shown[0] / 100), "the elevation is the input view's"
        assert orbit.place == f"{data.meta}:{record + 1}"
        starts.add(shown[0])
    assert starts == set(range(NUM_VIEWS))


def test_the_same_sample_number_gives_the_same_sample_and_others_differ(data):
    random_background = data.model_copy(update={"background": "random"})
    for _ in range(2):
        first, again = (OrbitViews(Records(data.meta, 4), random_background, seed=7)[11] for _ in range(2))
        assert torch.equal(first.pixels, again.pixels)
    other = OrbitViews(Records(data.meta, 4), random_background, seed=8)
    assert any(
        not torch.equal(other[n].pixels, OrbitViews(Records(data.meta, 4), random_background, seed=7)[n].pixels)
        for n in range(4)
    )


def test_the_background_is_white_or_one_random_colour_per_sample(data, tmp_path):
    for view in range(NUM_VIEWS):
        for record in range(NUM_RECORDS):
            Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(tmp_path / f"{record}_{view}.png")
    records = Records(data.meta, 4)
    assert OrbitViews(records, data, 0)[0].pixels.min() == 255
    coloured = OrbitViews(records, data.model_copy(update={"background": "random"}), 0)
    colours = [coloured[n].pixels[:, :, 0, 0] for n in range(4)]
    assert all(torch.equal(colour, colour[:1].expand_as(colour)) for colour in colours), (
        "alike in all views of a sample"
    )
    assert len({tuple(colour[0].tolist()) for colour in colours}) == 4


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("num_ranks", "batch_size"), [(1, 2), (2, 1), (3, 2)])
def test_every_record_once_per_epoch_on_all_ranks_and_workers_together(data, num_workers, num_ranks, batch_size):
    records = Records(data.meta, 4)
    steps = 3 * NUM_RECORDS  # these are whole epochs with any global batch
    seen = {}
    lengths = set()
    for rank in range(num_ranks):
        numbers = Share(rank, num_ranks, batch_size, 1).micro_batches(0, steps)
        loader = DataLoader(
            OrbitViews(records, data, 0), batch_sampler=numbers, num_workers=num_workers, collate_fn=collate
        )
        batches = list(loader)
        lengths.add(len(batches))
        for batch in batches:
            assert batch.pixels.shape == (batch_size, 4, 3, 8, 8) and batch.elevation_deg.shape == (batch_size,)
            seen |= dict(zip(batch.n, batch.places))
    assert lengths == {steps}
    assert sorted(seen) == list(range(steps * num_ranks * batch_size))
    for epoch in range(len(seen) // NUM_RECORDS):
        places = {seen[n] for n in range(epoch * NUM_RECORDS, (epoch + 1) * NUM_RECORDS)}
        assert len(places) == NUM_RECORDS


def test_a_view_of_another_size_names_the_line_and_the_file(data, tmp_path):
    Image.new("RGB", (20, 16)).save(tmp_path / "0_2.png")
    with pytest.raises(UserError, match=r"meta\.jsonl:1: .*0_2\.png is \(20, 16\)"):
        load_orbit(Records(data.meta, 4)[0], data, 0, WHITE)


def test_an_orbit_of_too_many_pixels_is_refused_at_its_first_view(data, monkeypatch):
    opened = []
    monkeypatch.setattr(dataset_views, "MAX_ORBIT_PIXELS", 4 * 16 * 16)
    load_orbit(Records(data.meta, 4)[0], data, 0, WHITE)
    monkeypatch.setattr(dataset_views, "MAX_ORBIT_PIXELS", 4 * 16 * 16 - 1)
    real = dataset.sources.open_rgba
    monkeypatch.setattr(dataset.sources, "open_rgba", lambda path, name: opened.append(path) or real(path, name))
    with pytest.raises(
        UserError, match=r"meta\.jsonl:1: 4 views of 16 x 16 have 1,024 pixels together, the limit is 1,023"
    ):
        load_orbit(Records(data.meta, 4)[0], data, 0, WHITE)
    assert len(opened) == 1


def test_links_in_the_root_are_followed_wherever_they_lead(data, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "0_1.png").rename(elsewhere / "0_1.png")
    (tmp_path / "0_1.png").symlink_to(elsewhere / "0_1.png")
    load_orbit(Records(data.meta, 4)[0], data, 1, WHITE)
    (tmp_path / "0_1.png").unlink()
    (tmp_path / "0_1.png").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"0_1\.png: cannot be read: it is not a regular file"):
        load_orbit(Records(data.meta, 4)[0], data, 1, WHITE)


@pytest.mark.parametrize("view", [0, NUM_VIEWS - 1])
def test_trying_images_opens_the_first_and_the_last_view_and_names_line_and_image(data, tmp_path, view):
    records = Records(data.meta, 4)
    (tmp_path / "2_3.png").unlink()
    try_images(records, data)
    (tmp_path / f"2_{view}.png").write_text("no image")
    with pytest.raises(UserError, match=rf"meta\.jsonl:3: .*2_{view}\.png: not an image"):
        try_images(records, data)


def test_a_missing_image_is_a_user_error_through_a_loading_process_too(data, tmp_path):
    (tmp_path / "3_0.png").unlink()
    numbers = Share(0, 1, 1, 1).micro_batches(0, 40)
    loader = DataLoader(
        OrbitViews(Records(data.meta, 4), data, 0), batch_sampler=numbers, num_workers=1, collate_fn=collate
    )
    with pytest.raises(UserError) as error:
        list(loader)
    assert str(error.value).splitlines()[-1].endswith("3_0.png: cannot be read: no such file")


def test_every_dummy_orbit_shows_a_whole_object_that_differs_from_all_sides():
    data = DataSettings(root="dummy_objaverse", meta="svd_meta.jsonl", size_px=64)
    for meta in ("svd_meta.jsonl", "svd_meta_held_out.jsonl"):
        for record in Records(meta, 21):
            pixels = load_orbit(record, data, 0, WHITE).pixels
            border = torch.cat([pixels[..., 0, :], pixels[..., -1, :], pixels[..., :, 0], pixels[..., :, -1]], dim=-1)
            assert border.min() > 0.99, f"{record.id} is cut off"
            assert 0.02 < (pixels.min(dim=1).values < 0.9).float().mean() < 0.6, (
                f"{record.id} is empty or fills the frame"
            )
            apart = torch.cdist(pixels.flatten(1), pixels.flatten(1)) + 1e9 * torch.eye(21)
            assert apart.min() > 1, f"two views of {record.id} are alike"
