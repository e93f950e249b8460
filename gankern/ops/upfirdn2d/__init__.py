"""upfirdn2d and the resampling functions made of it."""

from gankern.ops.upfirdn2d.op import upfirdn2d
from gankern.ops.upfirdn2d.resample import downsample2d, filter2d, setup_filter, upsample2d

__all__ = ["downsample2d", "filter2d", "setup_filter", "upfirdn2d", "upsample2d"]
