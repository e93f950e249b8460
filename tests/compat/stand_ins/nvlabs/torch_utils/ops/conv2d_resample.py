from . import conv2d_gradfix
from .upfirdn2d import _get_filter_size, _parse_padding, upfirdn2d


def conv2d_resample(x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False):
    pads = list(_parse_padding(padding))
    fw, fh = _get_filter_size(f)
    for factor, before, after in ((up, up - 1, -up), (down, 1 - down, -down)):
        if factor > 1:
            pads = [pads[0] + (fw + before) // 2, pads[1] + (fw + after) // 2,
                    pads[2] + (fh + before) // 2, pads[3] + (fh + after) // 2]  # fmt: skip
    x = upfirdn2d(x, f if up > 1 else None, up=up, padding=pads, gain=up**2, flip_filter=flip_filter)
    x = conv2d_gradfix.conv2d(x, w if flip_weight else w.flip(2, 3), groups=groups)
    return upfirdn2d(x, f, down=down, flip_filter=flip_filter) if down > 1 else x
