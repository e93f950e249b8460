"""Networks that call torch.nn.functional, as R3GAN's do."""

import torch
import torch.nn as nn
from torch_utils.ops.bias_act import bias_act


class Convolution(nn.Module):
    def __init__(self, i, o, kernel_size, groups=1):
        super().__init__()
        self.layer = nn.Conv2d(i, o, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)

    def forward(self, x):
        return nn.functional.conv2d(x, self.layer.weight.to(x.dtype), padding=self.layer.padding, groups=self.layer.groups)


class Up(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, channels, 2, 2) / channels)

    def forward(self, x):
        return nn.functional.conv_transpose2d(x, self.weight, stride=2)


class Critic(nn.Module):
    def __init__(self, channels=8):
        super().__init__()
        self.body = nn.Sequential(Convolution(3, channels, 1), Convolution(channels, channels, 3, 2), Up(channels))

    def forward(self, x):
        return bias_act(self.body(x), act="softplus").mean((1, 2, 3))
