"""Tools for latent spaces: interpolation, style mixing, truncation, arithmetic, closed-form directions, projection of images.

Functions take a generator of :mod:`gankern.models` and latents and give images as tensors; ``gankern latent`` writes them as
PNG grids, GIF or MP4. Images are made in evaluation mode, without gradients, with the layers' constant noise: the same latents
give the same images.
"""

from gankern.latent.directions import attribute_direction, closed_form_directions, deviation, edit, latent_arithmetic, sefa
from gankern.latent.interpolation import interpolate, lerp, slerp
from gankern.latent.projection import Projection, project
from gankern.latent.rendering import draw_latents, map_latents, render
from gankern.latent.styles import mix_styles, truncation_sweep

__all__ = [
    "Projection",
    "attribute_direction",
    "closed_form_directions",
    "deviation",
    "draw_latents",
    "edit",
    "interpolate",
    "latent_arithmetic",
    "lerp",
    "map_latents",
    "mix_styles",
    "project",
    "render",
    "sefa",
    "slerp",
    "truncation_sweep",
]
