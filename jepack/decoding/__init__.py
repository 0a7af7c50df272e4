"""Image bytes -> the uint8 crop an encoder sees. With errors.py, exactly what the Triton server is given."""

from jepack.decoding.cropping import INTERPOLATIONS, Preprocessing, crop, elongation, seen_box
from jepack.decoding.deep import READERS, fits_shape, kind_of, npy_header, size_of_file
from jepack.decoding.dicom import Frames
from jepack.decoding.dicom_header import may_be_large, quiet
from jepack.decoding.intensity import (
    LONGER,
    NARROW,
    Pixels,
    Raw,
    Window,
    as_image,
    channels_first,
    checked_window,
    hidden,
    narrow_span,
    to_eight_bits,
)
from jepack.decoding.limits import OWN, SERVED, check_size, need
from jepack.decoding.pictures import (
    DEEP_MODES,
    TURNED,
    bits_of,
    check_pixels,
    deep_values,
    formats_of,
    upright,
)
from jepack.decoding.preprocess import MAX_BYTES, SUFFIXES, decode, load, read_raw
from jepack.decoding.tiff import open_tiff, page_sizes, size_of_page
from jepack.decoding.tiff_stacks import stacked_images
from jepack.decoding.tiff_tags import (
    COLOURS,
    DEPTH,
    MIN_IS_BLACK,
    MIN_IS_WHITE,
    PALETTE,
    RGB,
    Tags,
    resolve,
)

__all__ = [
    "COLOURS",
    "DEEP_MODES",
    "DEPTH",
    "INTERPOLATIONS",
    "LONGER",
    "MAX_BYTES",
    "MIN_IS_BLACK",
    "MIN_IS_WHITE",
    "NARROW",
    "OWN",
    "PALETTE",
    "READERS",
    "RGB",
    "SERVED",
    "SUFFIXES",
    "TURNED",
    "Frames",
    "Pixels",
    "Preprocessing",
    "Raw",
    "Tags",
    "Window",
    "as_image",
    "bits_of",
    "channels_first",
    "check_pixels",
    "check_size",
    "checked_window",
    "crop",
    "decode",
    "deep_values",
    "elongation",
    "fits_shape",
    "formats_of",
    "hidden",
    "kind_of",
    "load",
    "may_be_large",
    "narrow_span",
    "need",
    "npy_header",
    "open_tiff",
    "page_sizes",
    "quiet",
    "read_raw",
    "resolve",
    "seen_box",
    "size_of_file",
    "size_of_page",
    "stacked_images",
    "to_eight_bits",
    "upright",
]
