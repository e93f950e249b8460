import torch

from .. import custom_ops

_plugin = None


def _init():
    global _plugin
    _plugin = custom_ops.get_plugin("upfirdn2d_plugin", ["upfirdn2d.cpp"])
    return True


def _pair(value):
    return [value, value] if isinstance(value, int) else list(value)


def _parse_padding(padding):
    values = _pair(padding)
    return tuple(values) if len(values) == 4 else (values[0], values[0], values[1], values[1])


def _get_filter_size(f):
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def setup_filter(f, device="cpu", normalize=True, flip_filter=False, gain=1, separable=None):
    f = torch.as_tensor(1 if f is None else f, dtype=torch.float32)
    f = f[None] if f.ndim == 0 else f
    if f.ndim == 1 and not (f.numel() >= 8 if separable is None else separable):
        f = torch.outer(f, f)
    f = f / f.sum() if normalize else f
    f = f.flip(list(range(f.ndim))) if flip_filter else f
    return (f * gain ** (f.ndim / 2)).to(device)


def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl="cuda"):
    (upx, upy), (downx, downy), (x0, x1, y0, y1) = _pair(up), _pair(down), _parse_padding(padding)
    n, c, h, w = x.shape
    stuffed = x.new_zeros(n, c, h * upy, w * upx)
    stuffed[:, :, ::upy, ::upx] = x
    padded = torch.nn.functional.pad(stuffed, [x0, x1, y0, y1])
    f = torch.ones(1, 1, dtype=x.dtype) if f is None else f.to(x.dtype)
    taps = torch.outer(f, f) if f.ndim == 1 else f
    taps = (taps if flip_filter else taps.flip(0, 1)) * gain
    y = torch.nn.functional.conv2d(padded, taps[None, None].repeat(c, 1, 1, 1), groups=c)
    return y[:, :, ::downy, ::downx]


def _upfirdn2d_ref(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1):
    return upfirdn2d(x, f, up, down, padding, flip_filter, gain)


def _around(f, padding, before, after):
    x0, x1, y0, y1 = _parse_padding(padding)
    fw, fh = _get_filter_size(f)
    return [x0 + before(fw), x1 + after(fw), y0 + before(fh), y1 + after(fh)]


def filter2d(x, f, padding=0, flip_filter=False, gain=1, impl="cuda"):
    pads = _around(f, padding, lambda k: k // 2, lambda k: (k - 1) // 2)
    return upfirdn2d(x, f, padding=pads, flip_filter=flip_filter, gain=gain)


def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl="cuda"):
    pads = _around(f, padding, lambda k: (k + up - 1) // 2, lambda k: (k - up) // 2)
    return upfirdn2d(x, f, up=up, padding=pads, flip_filter=flip_filter, gain=gain * up * up)


def downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1, impl="cuda"):
    pads = _around(f, padding, lambda k: (k - down + 1) // 2, lambda k: (k - down) // 2)
    return upfirdn2d(x, f, down=down, padding=pads, flip_filter=flip_filter, gain=gain)
