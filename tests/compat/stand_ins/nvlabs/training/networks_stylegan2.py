import torch
from torch_utils import misc, persistence
from torch_utils.ops import bias_act, conv2d_resample, fma, upfirdn2d


@misc.profiled_function
def modulated_conv2d(x, weight, styles, noise=None, up=1, down=1, padding=0, resample_filter=None, demodulate=True,
                     flip_weight=True, fused_modconv=True):  # fmt: skip
    n = len(styles)
    if x.dtype == torch.float16 and demodulate:
        weight = weight / weight.abs().amax((1, 2, 3), keepdim=True) / weight[0].numel() ** 0.5
        styles = styles / styles.abs().amax(1, keepdim=True)
    w = weight[None] * styles[:, None, :, None, None]
    d = (w.square().sum((2, 3, 4)) + 1e-8).rsqrt() if demodulate else torch.ones_like(w[:, :, 0, 0, 0])
    settings = {"f": resample_filter, "up": up, "down": down, "padding": padding, "flip_weight": flip_weight}
    if not fused_modconv:
        y = conv2d_resample.conv2d_resample(x * styles[:, :, None, None].to(x.dtype), weight.to(x.dtype), **settings)
        d = d[:, :, None, None].to(x.dtype)
        return y * d if noise is None else fma.fma(y, d, noise.to(x.dtype))
    w = (w * d[:, :, None, None, None]).to(x.dtype)
    y = conv2d_resample.conv2d_resample(x.reshape(1, -1, *x.shape[2:]), w.flatten(0, 1), groups=n, **settings)
    y = y.reshape(n, -1, *y.shape[2:])
    return y if noise is None else y + noise.to(x.dtype)


@persistence.persistent_class
class SynthesisLayer(torch.nn.Module):
    def __init__(self, i, o, w_dim, up=1, activation="lrelu"):
        super().__init__()
        self.up, self.activation = up, activation
        self.act_gain = bias_act.activation_funcs[activation].def_gain
        self.weight = torch.nn.Parameter(torch.randn(o, i, 3, 3))
        self.bias = torch.nn.Parameter(torch.zeros(o))
        self.affine = torch.nn.Linear(w_dim, i)
        self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))

    def forward(self, x, w):
        misc.assert_shape(x, [None, self.weight.shape[1], None, None])
        x = modulated_conv2d(
            x=x, weight=self.weight, styles=self.affine(w) + 1, up=self.up, padding=1, resample_filter=self.resample_filter,
            flip_weight=self.up == 1, fused_modconv=self.training,
        )  # fmt: skip
        return bias_act.bias_act(x, self.bias.to(x.dtype), act=self.activation, gain=self.act_gain)


@persistence.persistent_class
class Generator(torch.nn.Module):
    def __init__(self, z_dim=8, channels=6):
        super().__init__()
        self.const = torch.nn.Parameter(torch.randn(channels, 4, 4))
        self.layers = torch.nn.ModuleList([SynthesisLayer(channels, channels, z_dim, up) for up in (1, 2)])
        self.torgb = torch.nn.Parameter(torch.randn(3, channels, 1, 1))

    def forward(self, z):
        x = self.const.repeat(len(z), 1, 1, 1)
        for layer in self.layers:
            x = layer(x, z)
        return modulated_conv2d(x, self.torgb, torch.ones_like(x[:, :, 0, 0]), demodulate=False)


@persistence.persistent_class
class Discriminator(torch.nn.Module):
    def __init__(self, channels=6):
        super().__init__()
        self.first = torch.nn.Parameter(torch.randn(channels, 3, 3, 3) / 5)
        self.second = torch.nn.Parameter(torch.randn(channels, channels, 3, 3) / 7)
        self.last = torch.nn.Parameter(torch.randn(1, channels) / 2)
        self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))

    def forward(self, x):
        x = bias_act.bias_act(conv2d_resample.conv2d_resample(x, self.first, padding=1), act="softplus")
        x = conv2d_resample.conv2d_resample(x, self.second, self.resample_filter, down=2, padding=1)
        return bias_act.bias_act(x, act="softplus").mean((2, 3)) @ self.last.t()
