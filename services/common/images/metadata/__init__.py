"""What a photo's file holds beside pixels and profile: EXIF, XMP, IPTC, resolution.

libvips reads most of it and writes XMP; the rest is handled here, so that it comes through whole, in every format.
"""

from services.common.images.metadata.carried import (
    Metadata,
    attach,
    finished,
    metadata_for,
    read_metadata,
)
from services.common.images.metadata.exif import is_adobe_rgb
from services.common.images.metadata.exif_correction import PictureFacts

__all__ = ["Metadata", "PictureFacts", "attach", "finished", "is_adobe_rgb", "metadata_for", "read_metadata"]
