"""What the UNet is told beside the noised latents: image conditions and added_time_ids. Every function is pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

STOCK_IDS = ("fps_id", "motion_bucket_id", "noise_aug_strength")
ELEVATION = "elevation_deg"
# A dropped id is folded in at this value: the stock pipeline's default (fps 7 gives fps_id 6), or the middle of [-5, 30].
USUAL_VALUE = {"fps_id": 6.0, "motion_bucket_id": 127.0, "noise_aug_strength": 0.02, ELEVATION: 12.5}


@dataclass(frozen=True)
class Conditioning:
    latents: Tensor  # B C h w: the VAE's mode for the noised input view, not scaled
    image_embeds: Tensor  # B 1 D: CLIP's embedding of the clean input view
    added_time_ids: Tensor  # B num_ids, fp32

    @staticmethod
    def cat(conds: Sequence["Conditioning"]) -> "Conditioning":
        """Join several batches into one."""
        return Conditioning(
            torch.cat([cond.latents for cond in conds]),
            torch.cat([cond.image_embeds for cond in conds]),
            torch.cat([cond.added_time_ids for cond in conds]),
        )

    def split(self, size: int) -> list["Conditioning"]:
        """Cut a batch into batches of at most `size`."""
        columns = (self.latents.split(size), self.image_embeds.split(size), self.added_time_ids.split(size))
        return [Conditioning(*parts) for parts in zip(*columns)]


def added_time_ids(layout: Sequence[str], elevation_deg: Tensor, noise_aug_strength: Tensor) -> Tensor:
    """Return the ids in the order of `layout`: B num_ids, fp32. Ids other than the two given have their usual values."""
    given = {ELEVATION: elevation_deg.float(), "noise_aug_strength": noise_aug_strength.float()}
    columns = [given.get(name, torch.full_like(given[ELEVATION], USUAL_VALUE[name])) for name in layout]
    return torch.stack(columns, dim=1)


def with_elevation(cond: Conditioning, layout: Sequence[str], elevation_deg: float | Tensor) -> Conditioning:
    """Return the same conditioning with another elevation, for a UNet that is told one."""
    ids = cond.added_time_ids.clone()
    ids[:, list(layout).index(ELEVATION)] = elevation_deg
    return replace(cond, added_time_ids=ids)


def drop_conditions(cond: Conditioning, dropped: Tensor) -> Conditioning:
    """Zero both image conditions where `dropped` (B, bool) is true, as guidance does in sampling. The ids stay."""
    keep = (~dropped).to(cond.latents.dtype)
    return replace(
        cond, latents=cond.latents * keep.view(-1, 1, 1, 1), image_embeds=cond.image_embeds * keep.view(-1, 1, 1)
    )


def remap_added_time_ids(
    weight: Tensor, bias: Tensor, old: Sequence[str], new: Sequence[str], embed: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Turn `add_embedding.linear_1` for the ids `old` into one for the ids `new` that computes the same.

    `weight` is out x (len(old) * dim) and `bias` is out; `embed` turns k ids into their k x dim sinusoids. The columns of
    a kept id are copied, those of a new id are zero, and a dropped id is folded into the bias at its usual value, in fp64.
    """
    dim = weight.shape[1] // len(old)
    columns = dict(zip(old, weight.split(dim, dim=1)))
    new_weight = torch.cat([columns.get(name, torch.zeros_like(weight[:, :dim])) for name in new], dim=1)
    new_bias = bias.double()
    for name in columns.keys() - set(new):
        new_bias = new_bias + columns[name].double() @ embed(torch.tensor([USUAL_VALUE[name]]))[0].double()
    return new_weight, new_bias.to(bias.dtype)
