import torch

from models.conditioning import Conditioning, added_time_ids, drop_conditions


def test_ids_follow_the_layout_in_fp32_raw_degrees():
    elevation = torch.tensor([29.37, -5.0])
    strength = torch.tensor([0.02, 0.05])
    ids = added_time_ids(("fps_id", "elevation_deg", "noise_aug_strength"), elevation, strength)
    assert torch.equal(ids, torch.tensor([[6, 29.37, 0.02], [6, -5, 0.05]])) and ids.dtype == torch.float32
    ids = added_time_ids(("noise_aug_strength", "elevation_deg"), elevation, strength)
    assert torch.equal(ids, torch.stack([strength, elevation], dim=1)), "each sample has its own strength"
    assert added_time_ids(("motion_bucket_id",), elevation, strength).tolist() == [[127.0], [127.0]]


def test_dropout_zeroes_both_conditions_of_a_sample_and_no_others():
    cond = Conditioning(torch.ones(3, 4, 2, 2), torch.ones(3, 1, 8), torch.ones(3, 3))
    dropped = drop_conditions(cond, torch.tensor([False, True, False]))
    for tensor in (dropped.latents, dropped.image_embeds):
        assert tensor[1].eq(0).all() and tensor[0].eq(1).all() and tensor[2].eq(1).all()
    assert dropped.added_time_ids.eq(1).all(), "the ids stay"
    assert cond.latents.eq(1).all(), "the argument is not written to"
