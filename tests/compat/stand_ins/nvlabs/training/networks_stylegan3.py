import torch
from torch_utils import persistence
from torch_utils.ops import conv2d_gradfix, filtered_lrelu, upfirdn2d


def modulated_conv2d(x, w, s, demodulate=True, padding=0, input_gain=None):
    n, i = s.shape
    if demodulate:
        w = w / w.square().mean((1, 2, 3), keepdim=True).sqrt()
        s = s / s.square().mean().sqrt()
    w = w[None] * s[:, None, :, None, None]
    if demodulate:
        w = w * (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    if input_gain is not None:
        w = w * input_gain.expand(n, i)[:, None, :, None, None]
    y = conv2d_gradfix.conv2d(x.reshape(1, -1, *x.shape[2:]), w.flatten(0, 1).to(x.dtype), padding=padding, groups=n)
    return y.reshape(n, -1, *y.shape[2:])


@persistence.persistent_class
class Generator(torch.nn.Module):
    def __init__(self, z_dim=8, channels=6):
        super().__init__()
        self.const = torch.nn.Parameter(torch.randn(channels, 8, 8))
        self.weight = torch.nn.Parameter(torch.randn(3, channels, 3, 3))
        self.bias = torch.nn.Parameter(torch.zeros(3))
        self.affine = torch.nn.Linear(z_dim, channels)
        self.register_buffer("magnitude", torch.tensor(1.5))
        self.register_buffer("taps", upfirdn2d.setup_filter([1, 2, 3, 4, 4, 3, 2, 1]))

    def forward(self, z):
        x = self.const.repeat(len(z), 1, 1, 1)
        x = modulated_conv2d(x, self.weight, self.affine(z) + 1, padding=2, input_gain=self.magnitude.rsqrt())
        return filtered_lrelu.filtered_lrelu(
            x, self.taps, self.taps, self.bias, up=2, down=2, padding=7, gain=2**0.5, clamp=256
        )
