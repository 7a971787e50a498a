"""Captions of videos: found by name and language, read in every usual form, cleaned."""

from mcn_lightning.extract.captions.cleaning import CaptionCleaning
from mcn_lightning.extract.captions.find import CaptionSource, find_captions
from mcn_lightning.extract.captions.rows import Caption, VideoCaptions

__all__ = ["Caption", "CaptionCleaning", "CaptionSource", "VideoCaptions", "find_captions"]
