import torch
from torch_utils import misc, persistence
from torch_utils.ops import conv2d_gradfix, grid_sample_gradfix, upfirdn2d


@persistence.persistent_class
class AugmentPipe(torch.nn.Module):
    """Rotation and scaling at twice the rate, and a filter along x."""

    def __init__(self):
        super().__init__()
        self.register_buffer("taps", upfirdn2d.setup_filter([1, 3, 3, 1]))

    def forward(self, images):
        n, c, h, w = images.shape
        x = upfirdn2d.upsample2d(images, self.taps, up=2)
        theta = misc.constant(((0.9, 0.3, 0.05), (-0.25, 1.1, -0.1))).to(images.dtype)
        grid = torch.nn.functional.affine_grid(theta.expand(n, 2, 3), [n, c, 2 * h, 2 * w], align_corners=False)
        x = grid_sample_gradfix.grid_sample(x, grid)
        x = upfirdn2d.downsample2d(x, self.taps, down=2, flip_filter=True)
        taps = misc.constant((0.2, 0.5, 0.3)).to(x.dtype).reshape(1, 1, 1, 3).repeat(n * c, 1, 1, 1)
        return conv2d_gradfix.conv2d(x.reshape(1, n * c, h, w), taps, padding=[0, 1], groups=n * c).reshape(n, c, h, w)
