"""Which images there are, and the bytes of each: folders, manifests, shards, files that hold many."""

from jepack.sources.classes import class_ids, classes_of
from jepack.sources.crashes import ENDED, in_blocks
from jepack.sources.demo import package_folder
from jepack.sources.fetching import fetched_record
from jepack.sources.find import each_image, find_images, passed_over
from jepack.sources.folders import split_of
from jepack.sources.heldout import Record, record_of
from jepack.sources.image import ImageFile
from jepack.sources.oversize import full_size, own_bytes
from jepack.sources.reading import full_size_of_part, place_of_window
from jepack.sources.source import Source

__all__ = [
    "ENDED",
    "ImageFile",
    "Record",
    "Source",
    "class_ids",
    "classes_of",
    "each_image",
    "fetched_record",
    "find_images",
    "full_size",
    "full_size_of_part",
    "in_blocks",
    "own_bytes",
    "package_folder",
    "passed_over",
    "place_of_window",
    "record_of",
    "split_of",
]
