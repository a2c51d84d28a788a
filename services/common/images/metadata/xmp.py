"""XMP packets made to agree with the picture (ISO 16684-1; the exif, tiff and GCamera namespaces of its part 2).

Packets are corrected in place of text, not parsed: they come with every XML habit there is, and what is not named
here must stay as it is.
"""

from __future__ import annotations

import re

from services.common.images.metadata.exif_correction import PictureFacts

__all__ = ["corrected_xmp"]

# Sizes and positions of what other parts of the file hold: thumbnails, gain maps, motion pictures. None comes along.
_LOST_ELEMENTS = (b"xmp:Thumbnails", b"xap:Thumbnails", b"Container:Directory", b"GContainer:Directory")
_LOST_VALUES = re.compile(
    rb"\s(?:hdrgm:\w+|HDRGainMap:\w+|G?Camera:(?:Motion|Micro)\w+)\s*=\s*(?:\"[^\"<]*\"|'[^'<]*')"
)


def corrected_xmp(packet: bytes, facts: PictureFacts, same_profile: bool) -> bytes:
    """Set orientation, sizes and colour space; take out what describes parts of the file that are not written again.

    Without ``same_profile`` the name of the photo's ICC profile goes too.
    """
    values = {
        b"tiff:Orientation": 1,
        b"tiff:ImageWidth": facts.width_px,
        b"tiff:ImageLength": facts.height_px,
        b"exif:PixelXDimension": facts.width_px,
        b"exif:PixelYDimension": facts.height_px,
    }
    if facts.is_srgb is not None:
        values[b"exif:ColorSpace"] = 1 if facts.is_srgb else 0xFFFF
    for name, value in values.items():
        number = rb"(\b" + name + rb"\s*(?:=\s*[\"']|>\s*))\d+"
        packet = re.sub(number, rb"\g<1>%d" % value, packet)
    for name in _LOST_ELEMENTS:
        packet = _without_element(packet, name)
    packet = _LOST_VALUES.sub(b"", packet)
    if not same_profile:
        packet = re.sub(rb"\sphotoshop:ICCProfile\s*=\s*(?:\"[^\"<]*\"|'[^'<]*')", b"", packet)
        packet = _without_element(packet, b"photoshop:ICCProfile")
    return packet


def _without_element(packet: bytes, name: bytes) -> bytes:
    opening, closing = b"<" + name, b"</" + name + b">"
    pieces, at = [], 0
    while (start := packet.find(opening, at)) >= 0 and (end := packet.find(closing, start)) >= 0:
        pieces.append(packet[at:start])
        at = end + len(closing)
    return b"".join((*pieces, packet[at:]))
