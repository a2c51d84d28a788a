"""Image files in and out, through libvips.

Everything is computed in the content photo's own RGB space, so wide gamuts lose nothing; the style photo is
converted into it. CMYK, CIELAB and greyscale photos enter as RGB.
"""

from services.common.images.cielab import cielab
from services.common.images.decode import Photo, open_photo
from services.common.images.encode import OutputFormat, encode_photo, encode_preview, output_bit_depth
from services.common.images.info import FORMATS, FORMATS_OF_16_BITS, ImageLimits, PhotoInfo

__all__ = [
    "FORMATS",
    "FORMATS_OF_16_BITS",
    "ImageLimits",
    "OutputFormat",
    "Photo",
    "PhotoInfo",
    "cielab",
    "encode_photo",
    "encode_preview",
    "open_photo",
    "output_bit_depth",
]
