"""filtered_lrelu: bias, upsampling, leaky ReLU, clamp and downsampling in one pass; the geometry of StyleGAN3's layers."""

from gankern.ops.filtered_lrelu.geometry import LayerGeometry, layer_geometries
from gankern.ops.filtered_lrelu.op import filtered_lrelu

__all__ = ["LayerGeometry", "filtered_lrelu", "layer_geometries"]
