"""Images: scikit-learn's bundled ones, folders, pairs and two domains as seeded streams of batches; and pictures to look at."""

from gankern.data.dataset import Batch, ImageData, Stream, open_data
from gankern.data.images import make_grid, save_frames, save_grid, save_image, to_uint8

__all__ = ["Batch", "ImageData", "Stream", "make_grid", "open_data", "save_frames", "save_grid", "save_image", "to_uint8"]
