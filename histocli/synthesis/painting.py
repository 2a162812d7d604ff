"""From layout to picture: stains over stains, as batched tensor code for CPU and CUDA.

Absorbances add, so nuclei are blended into the background in optical density. A nucleus is its
reference's colour, stronger or weaker, with a paler middle and a rim where it is vesicular,
nucleoli, and on it the texture of one real nucleus.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from histocli.optics.blur import blur_each
from histocli.optics.density import optical_density_to_light
from histocli.reference.sharpness import BORDER_PX, FEWEST_PIXELS, FINEST_PX

COLUMNS = (
    "red",
    "green",
    "blue",
    "strength",
    "core",
    "rim_px",
    "clearing",
    "softness_px",
    "texture",
    "texture_gain",
    "grain_gain",
)
"""Of the table of nuclei: colour as optical density, opacity, opacity of the middle relative to the
border, width of the rim in pixels, share of the background that a clear middle lets through less,
width in pixels over which an edge out of focus fades inwards, index and gain of the texture, gain
of the drawn grain of chromatin."""


@dataclass(frozen=True)
class Canvas:
    """What is drawn, before it is painted; B patches of H x W pixels."""

    background: Tensor
    """(B, 3, H, W) float32, optical density."""
    owner: Tensor
    """(B, H, W) int32, which nucleus of its patch a pixel shows; 0 none."""
    depth: Tensor
    """(B, H, W) float16, pixels inside the painted edge; negative where the label reaches
    further."""
    frame_u: Tensor
    frame_v: Tensor
    """(B, H, W) float16, coordinates in the ellipse of the owner."""
    nucleoli: Tensor
    """(B, H, W) float16, 0..1."""
    grain: Tensor
    """(B, H, W) float16, chromatin noise of zero mean and unit spread."""
    nuclei: Tensor
    """(B, K, len(COLUMNS)) float32; row k describes nucleus k, row 0 nothing."""
    textures: Tensor
    """(T, 3, F, F) float32, residual optical density of real nuclei."""
    edge_px: Tensor
    """(B,) float32, standard deviation of the edges' blur."""
    white: Tensor
    """(B,) float32, level of glass."""
    fine: Tensor
    """(B, 2) float32, finest detail to reach within nuclei and along their borders, as a share of
    white; 0 leaves it alone."""

    def to(self, device: torch.device) -> "Canvas":
        """Move all tensors."""
        return Canvas(
            **{
                field.name: getattr(self, field.name).to(device, non_blocking=True)
                for field in fields(self)
            }
        )


def paint(canvas: Canvas, frame_extent: float) -> Tensor:
    """Paint a batch.

    Parameters
    ----------
    canvas : Canvas
    frame_extent : float
        Radius, in units of the ellipse's, that the sides of a texture stand for.

    Returns
    -------
    Tensor of uint8, shape (B, 3, H, W)
        sRGB.
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
    # the share of the pixel that is painted; a ramp where out of focus
    body = ((depth + 0.5) / (1 + softness)).clamp(0, 1)
    rimmed = torch.exp(-depth.clamp(min=0) / rim)
    profile = core + (1 - core) * rimmed
    grain = at(canvas.grain)
    # chromatin that shows in a pale middle too
    clumps = 0.35 * grain_gain * (grain - 0.5).clamp(min=0)
    nucleoli = 0.8 * at(canvas.nucleoli) * (1.15 - profile).clamp(min=0)
    opacity = profile * (1 + grain_gain * grain).clamp(0.2, 1.8) + clumps
    opacity = body * strength * (opacity + nucleoli)
    residual = sample_textures(
        canvas.textures,
        texture[:, 0].long(),
        at(canvas.frame_u)[:, 0],
        at(canvas.frame_v)[:, 0],
        frame_extent,
    )
    drawn = place.new_zeros((6, batch * height * width), dtype=torch.float32)
    drawn[0, place] = opacity[:, 0]
    textured = residual * texture_gain * (body * opacity).clamp(0, 1)
    drawn[1:4, place] = (opacity * colour + textured).T
    drawn[4, place] = (body * clearing * (1 - rimmed))[:, 0]
    shown = strength * (0.45 + 0.55 * core) > 0.6  # so strong that a rough map would measure it
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
    """Bring the finest detail of painted nuclei, and of their borders, to that of the reference.

    Too much is taken away; within nuclei, too little is made up for by the detail of another place
    of the background, which carries the noise of the sensor and the grain of the compression.

    Parameters
    ----------
    light : Tensor of float32, shape (B, 3, H, W)
        Painted, 0..255.
    canvas : Canvas
    core : Tensor of float32, shape (B, 1, H, W)
        1 well within nuclei.
    shown : Tensor of float32, shape (B, 1, H, W)
        Opacity of the nuclei that show well; faint ones are measured neither here nor in the
        reference.
    cover : Tensor of float32, shape (B, 1, H, W)
        Opacity.

    Returns
    -------
    Tensor of float32, shape (B, 3, H, W)
    """
    batch = len(light)
    sigma = torch.full((batch,), FINEST_PX, device=light.device)
    fine = light - blur_each(light, sigma)
    power = fine.square().mean(dim=1, keepdim=True)
    visible = 0.03  # opacity from which a blurred border is seen
    edge = (cover > visible).float() * (1 - core)
    shows = (shown > visible).float()
    change = torch.zeros_like(light)
    for region, target in ((core, canvas.fine[:, 0]), (edge, canvas.fine[:, 1])):
        judged = region * shows
        pixels = judged.sum(dim=(1, 2, 3))
        found = ((power * judged).sum(dim=(1, 2, 3)) / pixels.clamp(min=1)).sqrt() / canvas.white
        known = (target > 0) & (pixels >= FEWEST_PIXELS) & (found > 0)
        # with less than 0.15 of its finest detail, a patch looks smeared
        kept = torch.where(known, (target / found.clamp(min=1e-6)).clamp(0.15, 1), 1.0)
        # a second blur of the same width takes away 0.55 of the finest detail of a blurred step
        response = 0.55 if region is edge else 1.0
        change = change - region * ((1 - kept) / response).clamp(max=1)[:, None, None, None] * fine
        if region is core:
            missing = (
                torch.where(known, (target.square() - found.square()).clamp(min=0).sqrt(), 0.0)
                * canvas.white
            )
            if bool((missing > 0).any()):
                noise = background_detail(canvas.background, canvas.white)
                spread = noise.square().mean(dim=(1, 2, 3)).sqrt().clamp(min=1e-3)
                gain = (missing / spread).clamp(max=3.0)[:, None, None, None]
                change += gain * noise * cover.clamp(max=1)
    return light + change


def background_detail(background: Tensor, white: Tensor) -> Tensor:
    """Return the finest detail of backgrounds, moved away from its own place by half a patch.

    Parameters
    ----------
    background : Tensor of float32, shape (B, 3, H, W)
        Optical density.
    white : Tensor of float32, shape (B,)
    """
    height, width = background.shape[2:]
    light = optical_density_to_light(background, white[:, None, None, None])
    fine = light - blur_each(light, torch.full((len(light),), FINEST_PX, device=light.device))
    return fine.roll((height // 2, width // 2), dims=(2, 3))


def sample_textures(textures: Tensor, index: Tensor, u: Tensor, v: Tensor, extent: float) -> Tensor:
    """Look textures up, bilinearly.

    Parameters
    ----------
    textures : Tensor, shape (T, C, F, F)
    index : Tensor of int64, shape (N,)
        Which texture each point reads.
    u, v : Tensor, shape (N,)
        Where: columns and rows, -extent..extent.
    extent : float

    Returns
    -------
    Tensor, shape (N, C)
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
