"""Images as training reads them: decoded into a cache or when a step needs them; split without leaks."""

from training.data.cache import Cache, open_cache
from training.data.content import Grids, centres, contents_for, shares
from training.data.copies import Thumbprint, copies_across, thumbprint_of
from training.data.decoded import Decoded, decode_file, gathered
from training.data.images import Fetched, Images, Ints
from training.data.ranges import Range, cautions, range_of, sentences
from training.data.samples import guess_channels, measure_window
from training.data.splits import (
    Split,
    check_groups,
    column,
    grouped_split,
    groups_of,
    one_thing,
    own_split,
    split,
    training_split,
)
from training.data.stream import open_stream

__all__ = [
    "Cache",
    "Decoded",
    "Fetched",
    "Grids",
    "Images",
    "Ints",
    "Range",
    "Split",
    "Thumbprint",
    "cautions",
    "centres",
    "check_groups",
    "column",
    "contents_for",
    "copies_across",
    "decode_file",
    "gathered",
    "grouped_split",
    "groups_of",
    "guess_channels",
    "measure_window",
    "one_thing",
    "open_cache",
    "open_stream",
    "own_split",
    "range_of",
    "sentences",
    "shares",
    "split",
    "thumbprint_of",
    "training_split",
]
