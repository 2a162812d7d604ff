"""Painting of drawn patches: batched tensor code for CPU and CUDA.

Absorbances add, so nuclei are blended into the background in optical density. A nucleus has the
colour of a nucleus of the reference (the real image that the patch imitates), a texture and a
strength; if vesicular, also a pale middle, a rim and nucleoli.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from histocli.optics.blur import blur_each
from histocli.optics.density import optical_density_to_light
from histocli.reference.sharpness import BORDER_PX, FEWEST_PIXELS, FINEST_PX

COLUMNS = (
    *("red", "green", "blue"),  # optical density
    "strength",  # opacity
    "core",  # opacity of the middle relative to the border
    "rim_px",  # width of the rim
    "clearing",  # share of the background's density that a clear middle removes
    "softness_px",  # width over which an edge out of focus fades inwards
    "texture",  # index
    "texture_gain",
    "grain_gain",  # gain of the drawn chromatin noise
)
"""Columns of the table of nuclei."""


@dataclass(frozen=True)
class Canvas:
    """B drawn patches of H x W pixels, before painting."""

    background: Tensor  # (B, 3, H, W) float32, optical density
    owner: Tensor  # (B, H, W) int32, number of the nucleus that a pixel shows; 0 for none
    depth: Tensor  # (B, H, W) float16, pixels inside the painted edge; negative outside
    frame_u: Tensor
    frame_v: Tensor  # (B, H, W) float16, frame_u too: coordinates in the owner's ellipse
    nucleoli: Tensor  # (B, H, W) float16, 0..1
    grain: Tensor  # (B, H, W) float16, chromatin noise of zero mean and unit spread
    nuclei: Tensor  # (B, K, len(COLUMNS)) float32; row k describes nucleus k, row 0 none
    textures: Tensor  # (T, 3, F, F) float32, optical density minus the mean of its nucleus
    edge_px: Tensor  # (B,) float32, standard deviation of the blur of edges
    white: Tensor  # (B,) float32, level of glass
    fine: Tensor
    """(B, 2) float32, target of finest detail in nuclei and borders over white; 0: none."""

    def to(self, device: torch.device) -> "Canvas":
        """Move all tensors to a device."""
        return Canvas(
            **{
                field.name: getattr(self, field.name).to(device, non_blocking=True)
                for field in fields(self)
            }
        )


def paint(canvas: Canvas, frame_extent: float) -> Tensor:
    """Paint a batch; returns uint8 sRGB (B, 3, H, W).

    The frames of textures span ``frame_extent`` half axes of the ellipse to each side.
    """
    batch, height, width = canvas.owner.shape
    place = canvas.owner.flatten().nonzero()[:, 0]
    patch = place // (height * width)
    row = canvas.nuclei[patch, canvas.owner.flatten()[place].long()]
    colour, strength, core, rim, clearing, softness, texture, texture_gain, grain_gain = (
        torch.split(row, [3] + 8 * [1], dim=1)
    )

    def at(field: Tensor) -> Tensor:
        return field.flatten()[place].float()[:, None]

    depth = at(canvas.depth)
    # painted share of the pixel; falls off over softness_px where out of focus
    body = ((depth + 0.5) / (1 + softness)).clamp(0, 1)
    rimmed = torch.exp(-depth.clamp(min=0) / rim)
    profile = core + (1 - core) * rimmed
    grain = at(canvas.grain)
    # clumps of chromatin show in pale middles too
    clumps = 0.35 * grain_gain * (grain - 0.5).clamp(min=0)
    nucleoli = 0.8 * at(canvas.nucleoli) * (1.15 - profile).clamp(min=0)
    opacity = profile * (1 + grain_gain * grain).clamp(0.2, 1.8) + clumps
    opacity = body * strength * (opacity + nucleoli)
    u, v = at(canvas.frame_u)[:, 0], at(canvas.frame_v)[:, 0]
    residual = sample_textures(canvas.textures, texture[:, 0].long(), u, v, frame_extent)
    drawn = place.new_zeros((6, batch * height * width), dtype=torch.float32)
    drawn[0, place] = opacity[:, 0]
    textured = residual * texture_gain * (body * opacity).clamp(0, 1)
    drawn[1:4, place] = (opacity * colour + textured).T
    drawn[4, place] = (body * clearing * (1 - rimmed))[:, 0]
    shown = strength * (0.45 + 0.55 * core) > 0.6  # strong enough for a rough map
    drawn[5, place] = (body * shown)[:, 0]
    drawn = blur_each(drawn.view(6, batch, height, width).transpose(0, 1), canvas.edge_px)
    cover, pigment, cleared = drawn[:, :1].clamp(max=1.3), drawn[:, 1:4], drawn[:, 4:5]

    density = canvas.background * (1 - cover) * (1 - cleared) + pigment
    light = optical_density_to_light(density.clamp(min=0), canvas.white[:, None, None, None])
    if bool((canvas.fine > 0).any()):
        within = canvas.depth[:, None] >= BORDER_PX
        light = match_sharpness(light, canvas, within.float(), drawn[:, 5:], cover)
    return light.round().clamp(0, 255).to(torch.uint8)


def match_sharpness(
    light: Tensor, canvas: Canvas, core: Tensor, shown: Tensor, cover: Tensor
) -> Tensor:
    """Match the finest detail within painted nuclei and along their borders to the reference.

    Excess detail is weakened. Detail missing within nuclei is added from another place of the
    background, which carries the noise of the sensor and the grain of the compression.

    ``light`` (B, 3, H, W) is the painted picture, 0..255. The other fields are (B, 1, H, W):
    ``core`` is 1 well within nuclei, ``cover`` the opacity of all nuclei, and ``shown`` the opacity
    of strong nuclei only, because the rough map of the reference, where the targets are measured,
    lacks faint nuclei.
    """
    batch = len(light)
    sigma = torch.full((batch,), FINEST_PX, device=light.device)
    fine = light - blur_each(light, sigma)
    power = fine.square().mean(dim=1, keepdim=True)
    visible = 0.03  # opacity from which a blurred border counts
    edge = (cover > visible).float() * (1 - core)
    shows = (shown > visible).float()
    change = torch.zeros_like(light)
    for region, target in ((core, canvas.fine[:, 0]), (edge, canvas.fine[:, 1])):
        judged = region * shows
        pixels = judged.sum(dim=(1, 2, 3))
        found = ((power * judged).sum(dim=(1, 2, 3)) / pixels.clamp(min=1)).sqrt() / canvas.white
        known = (target > 0) & (pixels >= FEWEST_PIXELS) & (found > 0)
        # a patch with less than 0.15 of its finest detail looks smeared
        kept = torch.where(known, (target / found.clamp(min=1e-6)).clamp(0.15, 1), 1.0)
        # a second blur of the same width removes 0.55 of the finest detail of a blurred step
        response = 0.55 if region is edge else 1.0
        change = change - region * ((1 - kept) / response).clamp(max=1)[:, None, None, None] * fine
        if region is core:
            missing = (target.square() - found.square()).clamp(min=0).sqrt()
            missing = torch.where(known, missing, 0.0) * canvas.white
            if bool((missing > 0).any()):
                noise = background_detail(canvas.background, canvas.white)
                spread = noise.square().mean(dim=(1, 2, 3)).sqrt().clamp(min=1e-3)
                gain = (missing / spread).clamp(max=3.0)[:, None, None, None]
                change += gain * noise * cover.clamp(max=1)
    return light + change


def background_detail(background: Tensor, white: Tensor) -> Tensor:
    """Return the finest detail of light in backgrounds, shifted by half a patch.

    ``background`` (B, 3, H, W) is an optical density, ``white`` (B,) the level of glass.
    """
    height, width = background.shape[2:]
    light = optical_density_to_light(background, white[:, None, None, None])
    fine = light - blur_each(light, torch.full((len(light),), FINEST_PX, device=light.device))
    return fine.roll((height // 2, width // 2), dims=(2, 3))


def sample_textures(textures: Tensor, index: Tensor, u: Tensor, v: Tensor, extent: float) -> Tensor:
    """Look up textures (T, C, F, F) at N points, bilinearly; returns (N, C).

    ``index`` (N,) says which texture; ``u`` and ``v`` (N,) are columns and rows, -extent..extent.
    """
    side = textures.shape[-1]
    x = ((u / extent + 1) * side / 2 - 0.5).clamp(0, side - 1.001)
    y = ((v / extent + 1) * side / 2 - 0.5).clamp(0, side - 1.001)
    left, top = x.floor(), y.floor()
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    flat = textures.permute(0, 2, 3, 1).reshape(-1, textures.shape[1])
    corner = (index * side + top.long()) * side + left.long()
    above = flat[corner] * (1 - fx) + flat[corner + 1] * fx
    below = flat[corner + side] * (1 - fx) + flat[corner + side + 1] * fx
    return above * (1 - fy) + below * fy
