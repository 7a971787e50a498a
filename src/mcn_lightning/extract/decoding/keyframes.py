"""Key frames at which a decoder forgets all that came before. What containers call key frames need not be such."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av

ALONE = ("mjpeg", "prores", "dnxhd", "rawvideo")
"""Codecs whose frames all stand for themselves."""


def forgets(packet: av.Packet, stream: av.VideoStream) -> bool:
    """Tell whether a packet is shown and no frame from it on is built upon one before it, by the bytes of the packet.

    Args:
        packet: of a key frame.
        stream: it belongs to.
    """
    codec = stream.codec_context.name
    known = codec in ALONE or (codec in FRESH and not (codec in UNITS and has_fields(stream)))
    if packet.is_discard or not known:
        return False
    return codec in ALONE or FRESH[codec](memoryview(packet), stream.codec_context.extradata or b"")


def has_fields(stream: av.VideoStream) -> bool:
    """Tell whether the two fields of a frame may come in two packets."""
    # PyAV tells it from version 18 on; 0 unknown, 1 none, more: two fields
    return int(getattr(stream.codec_context, "field_order", 2)) > 1


def _h264(content: memoryview, extradata: bytes) -> bool:
    # 5: a slice of an IDR picture, which empties the list of frames to refer to
    return any(first & 31 == 5 for first in _units(content, extradata, 4))


def _hevc(content: memoryview, extradata: bytes) -> bool:
    # 19 and 20: IDR pictures; a CRA picture may be followed by frames built upon earlier ones
    return any(first >> 1 & 63 in (19, 20) for first in _units(content, extradata, 21))


def _units(content: memoryview, extradata: bytes, place: int) -> Iterator[int]:
    """Give the first byte of each unit of a frame, which tells its kind.

    Args:
        content: of the packet.
        extradata: of the codec. In MP4 and Matroska it says of how many bytes the length before each unit is.
        place: of that number in it.
    """
    if len(extradata) > place and extradata[0] == 1:
        size, begin = (extradata[place] & 3) + 1, 0
        while begin + size < len(content):
            yield content[begin + size]
            begin += size + int.from_bytes(content[begin : begin + size], "big")
        return
    # without lengths, as in MPEG-TS: units begin with 0 0 1
    raw, begin = bytes(content), -3
    while 0 <= (begin := raw.find(b"\0\0\1", begin + 3)) < len(raw) - 3:
        yield raw[begin + 3]


def _vp8(content: memoryview, extradata: bytes) -> bool:
    return len(content) > 0 and content[0] & 0x11 == 0x10  # a key frame, shown


def _vp9(content: memoryview, extradata: bytes) -> bool:
    return len(content) > 0 and content[0] & 0xCE == 0x82 and content[0] & 0x30 != 0x30  # profile 3 has other places


def _av1(content: memoryview, extradata: bytes) -> bool:
    place = 0
    while place < len(content):
        head, length, shift = content[place], 0, 0
        place += 2 if head & 4 else 1
        while head & 2 and place < len(content):  # the length, seven bits a byte
            length |= (content[place] & 127) << shift
            place, shift = place + 1, shift + 7
            if content[place - 1] < 128:
                break
        if head >> 3 & 15 in (3, 6):  # the head of a frame
            return place < len(content) and content[place] & 0xF0 == 0x10
        place = place + length if head & 2 else len(content)
    return False


UNITS = ("h264", "hevc")
"""Codecs of which a packet may hold one field of a frame."""
FRESH: dict[str, Callable[[memoryview, bytes], bool]] = {
    "h264": _h264, "hevc": _hevc, "vp8": _vp8, "vp9": _vp9, "av1": _av1, "libdav1d": _av1, "libvpx-vp9": _vp9,
}  # fmt: skip
"""What tells by the bytes of a packet, for each decoder."""
