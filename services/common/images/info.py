"""What a header tells about an image file, and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.config import ProcessSettings
from services.common.errors import InvalidArgument

__all__ = ["FORMATS", "FORMATS_OF_16_BITS", "ImageLimits", "PhotoInfo"]

FORMATS = ("jpeg", "png", "tiff", "webp", "avif")
FORMATS_OF_16_BITS = ("png", "tiff")


@dataclass(frozen=True)
class PhotoInfo:
    """Facts about one image file; sizes in pixels with the EXIF orientation applied."""

    format: str
    width_px: int
    height_px: int
    bit_depth: int
    has_alpha: bool
    has_profile: bool


@dataclass(frozen=True)
class ImageLimits:
    """Sizes of image files that are accepted; everything but ``max_bytes`` is read from the header."""

    max_bytes: int
    max_pixels: int
    min_edge_px: int
    max_edge_px: int

    @classmethod
    def of(cls, settings: ProcessSettings) -> ImageLimits:
        """Take the limits that the operator set."""
        return cls(settings.max_image_bytes, settings.max_pixels, settings.min_edge_px, settings.max_edge_px)

    def check_bytes(self, size_bytes: int, field: str) -> None:
        """Refuse a file of more than ``max_bytes`` with InvalidArgument."""
        if size_bytes > self.max_bytes:
            raise InvalidArgument(field, f"{size_bytes} bytes", f"at most {self.max_bytes} bytes are accepted")

    def check_size(self, width_px: int, height_px: int, field: str) -> None:
        """Refuse a picture that is too small or too large with InvalidArgument."""
        size = f"{width_px}x{height_px} px"
        if min(width_px, height_px) < self.min_edge_px:
            raise InvalidArgument(field, size, f"each edge must be at least {self.min_edge_px} px")
        if max(width_px, height_px) > self.max_edge_px:
            raise InvalidArgument(field, size, f"each edge must be at most {self.max_edge_px} px")
        if width_px * height_px > self.max_pixels:
            raise InvalidArgument(field, size, f"at most {self.max_pixels} pixels are accepted")
