"""DICOM files -> their images: colours, units and the file's own window.

pydicom reads, dicom_codecs.py decompresses.

One frame is read by its number, never all of them for one. Sizes are checked from headers, before anything is
decompressed. Sources: DICOM PS3.3 C.7.6.3 (pixels), C.7.6.16 (functional groups), C.11.2 (windows), PS3.5 A.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jepack.decoding.dicom_codecs import NAME, decoder_of
from jepack.decoding.dicom_display import palette, pictured, window_of
from jepack.decoding.dicom_header import NEEDED, PIXELS, opened, pixel_element, quiet
from jepack.decoding.intensity import Raw
from jepack.decoding.limits import SERVED, Limits, check_size, need
from jepack.errors import DataError

SUFFIXES = (".dcm", ".dicom", ".ima")
MAX_INFLATED = 200_000_000  # bytes of a file that is deflated as a whole
MAX_INFLATED_OWN = 1 << 30  # of a person's own
# The functional groups that say what values mean and how they are shown. Real-world values are another
# unit beside them, and are left alone.
GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")


def read_dicom(data: bytes, channels: int | None = None, limits: Limits = SERVED) -> Raw:
    """The first frame: colours, or rescaled values (Hounsfield units, say) with the file's first window."""
    return Frames(data, limits).raw(0)


class Frames:
    """The frames of one file. Raises DataError, or DependencyError where a library is missing."""

    def __init__(self, source: Path | bytes, limits: Limits = SERVED) -> None:
        self.file: Any = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        most = MAX_INFLATED if limits.bytes <= SERVED.bytes else MAX_INFLATED_OWN
        self.header, self.syntax, self.stream = opened(self.file, most)
        self.pixels, self.keyword, self.kind, self.length = pixel_element(self.stream, self.syntax)
        missing = [name for name in NEEDED if self.header.get(name) in (None, "")]
        if missing:
            raise DataError(f"dicom: its header lacks {', '.join(missing)}")
        self.count = int(self.header.get("NumberOfFrames", 1) or 1)
        self.samples = int(self.header.SamplesPerPixel)
        if self.samples not in (1, 3, 4):
            raise DataError(f"dicom: {self.samples} samples in each pixel, 1, 3 or 4 are read")
        self.size = (int(self.header.Rows), int(self.header.Columns))
        check_size((*self.size, self.samples), limits)

    def __del__(self) -> None:
        if "file" in self.__dict__:
            self.file.close()

    def raw(self, frame: int) -> Raw:
        """A frame's values as they are meant."""
        pixels = need("pydicom.pixels", "dicom")
        tags = self.tags(frame)
        values, told = self.decoded(frame)
        if told["photometric_interpretation"] == "PALETTE COLOR":
            return palette(tags, values)
        if values.ndim == 3:
            stored = int(told.get("bits_stored", 8))
            whole = values.dtype in (np.uint8, np.uint16) and stored == 8 * values.itemsize
            return Raw(values, window=None if whole else (0.0, float(2**stored - 1)))
        values = np.asarray(pixels.apply_rescale(values, tags), dtype=np.float32)
        return Raw(
            values[..., None],
            window=window_of(tags, values),
            inverted=told["photometric_interpretation"] == "MONOCHROME1",
            pictured=pictured(tags, values),
        )

    def decoded(self, frame: int, *, stored: bool = False) -> tuple[Any, dict[str, Any]]:
        """[H, W] or [H, W, C] of a frame, and what pydicom says of them; YBR as RGB unless `stored`."""
        decoder, plugin = decoder_of(self.syntax)
        options = self.options()
        self.check_length(frame, options)
        if options["bits_allocated"] == 1 and not plugin:
            return self.single_bits(frame), options
        high, bits = self.header.get("HighBit"), options.get("bits_stored")
        displaced = not plugin and None not in (high, bits) and self.keyword == "PixelData"
        displaced = displaced and bits <= high < options["bits_allocated"]
        options["correct_unused_bits"] = not displaced  # values may end at a higher bit
        # JPEG-LS streams tell no sign and often more bits than are stored: the header's count.
        options["apply_jls_sign_correction"] = False
        self.stream.seek(self.pixels)
        try:
            values, told = decoder.as_array(
                self.stream, index=frame, decoding_plugin=plugin, raw=stored, **options
            )
        except RuntimeError as error:  # of the plugin, wrapped
            reason = str(error).rpartition(f"{NAME}: ")[2]
            raise DataError(f"dicom: {reason}") from error
        if displaced:
            wide = options["bits_allocated"]
            values = values << (wide - 1 - high) >> (wide - bits)
        return values, told

    def options(self) -> dict[str, Any]:
        """The header as pydicom's decoders take it."""
        utils = need("pydicom.pixels.utils", "dicom")
        options: dict[str, Any] = utils.as_pixel_options(self.header)
        options.setdefault("planar_configuration", 0)
        return options | {"pixel_keyword": self.keyword, "pixel_vr": self.kind}

    def single_bits(self, frame: int) -> Any:
        """[H, W] of 0 and 1; frames follow each other without a gap, within a byte too."""
        rows, columns = int(self.header.Rows), int(self.header.Columns)
        first = frame * rows * columns
        self.stream.seek(self.pixels + first // 8)
        data = np.frombuffer(self.stream.read(rows * columns // 8 + 2), np.uint8)
        bits = np.unpackbits(data, bitorder="little")[first % 8 :]
        return bits[: rows * columns].reshape(rows, columns)

    def check_length(self, frame: int, options: dict[str, Any]) -> None:
        """Whether an uncompressed frame is all there."""
        if self.syntax.is_encapsulated:
            return
        values = int(options["rows"]) * int(options["columns"]) * self.samples
        bits = values * int(options["bits_allocated"])
        if options["photometric_interpretation"] == "YBR_FULL_422":
            bits = bits * 2 // 3
        end = self.stream.seek(0, io.SEEK_END)
        there = min(self.length, end - self.pixels)
        needed = -(-bits * (frame + 1) // 8)
        if needed > there:
            raise DataError(
                f"dicom: cut short, frame {frame + 1} ends at byte {needed:,} of its pixels and "
                f"{there:,} are there"
            )

    def tags(self, frame: int) -> Any:
        """What says how a frame's pixels are read, the functional groups merged; nothing of a patient."""
        pydicom = need("pydicom", "dicom")
        tags = pydicom.Dataset()
        for tag in self.header.keys():  # noqa: SIM118 (a Dataset iterates over elements)
            if tag.group == 0x0028:
                tags[tag] = copy.copy(self.header[tag])  # setting a value would change both
        if "NumberOfFrames" in tags:
            del tags.NumberOfFrames
        shared = list(self.header.get("SharedFunctionalGroupsSequence") or [])[:1]
        own = list(self.header.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]
        for groups in (*shared, *own):
            for name in GROUPS:
                for item in list(groups.get(name) or [])[:1]:
                    tags.update(item)
        tags.file_meta = pydicom.dataset.FileMetaDataset()
        tags.file_meta.TransferSyntaxUID = self.syntax
        if not self.syntax.is_little_endian:
            for element in tags:
                if element.VR == "OW" and isinstance(element.value, bytes):  # pydicom leaves words
                    element.value = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()
            tags.file_meta.TransferSyntaxUID = need("pydicom.uid", "dicom").ExplicitVRLittleEndian
        return tags

    def alone(self, frame: int, smaller: Callable[[Any], Any] | None = None) -> bytes:
        """A frame as a DICOM file of its own, with a header that is true of it.

        A compressed frame keeps its stream; others are written uncompressed, little-endian, by pixels.
        `smaller` makes fewer pixels of the stored ones, [H, W, C], before they are written.
        """
        pydicom, encaps = need("pydicom", "dicom"), need("pydicom.encaps", "dicom")
        tags = self.tags(frame)
        if self.syntax.is_encapsulated and smaller is None:
            offsets = self.options().get("extended_offsets")
            self.stream.seek(self.pixels)
            stream = encaps.get_frame(
                self.stream, frame, number_of_frames=self.count, extended_offsets=offsets
            )
            tags.add_new(0x7FE00010, "OB", encaps.encapsulate([stream]))
            tags["PixelData"].is_undefined_length = True
        else:
            self.write_pixels(tags, frame, smaller)
        meta = tags.file_meta
        meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
        meta.MediaStorageSOPInstanceUID = "2.25.1"
        tags.SOPClassUID, tags.SOPInstanceUID = meta.MediaStorageSOPClassUID, "2.25.1"
        written = io.BytesIO()
        tags.save_as(written, enforce_file_format=True)
        return written.getvalue()

    def write_pixels(
        self, tags: Any, frame: int, smaller: Callable[[Any], Any] | None = None
    ) -> None:
        # Compressed colours as the decoder gives them: a stream may be YBR where the header says RGB.
        compressed = self.syntax.is_encapsulated
        values, told = self.decoded(frame, stored=not compressed)
        if compressed and values.ndim == 3:
            told = {**told, "photometric_interpretation": "RGB"}
        if smaller is not None:
            values = (
                smaller(values.reshape(*self.size, -1)).squeeze(2)
                if values.ndim == 2
                else smaller(values)
            )
            tags.Rows, tags.Columns = values.shape[:2]
        tags.file_meta.TransferSyntaxUID = need("pydicom.uid", "dicom").ExplicitVRLittleEndian
        tags.PhotometricInterpretation = str(told["photometric_interpretation"])
        tags.BitsAllocated = 8 * values.itemsize
        if self.samples > 1:
            tags.PlanarConfiguration = 0
        if self.keyword == "PixelData":
            tags.BitsStored, tags.HighBit = told["bits_stored"], told["bits_stored"] - 1
        data = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
        tag = next(tag for tag, (name, _) in PIXELS.items() if name == self.keyword)
        kind = "OB" if values.itemsize == 1 else PIXELS[tag][1]
        tags.add_new(tag, kind, data + b"\0" * (len(data) % 2))


def frames_of(path: Path) -> int:
    """How many frames a file holds."""
    with quiet(), path.open("rb") as stream:
        header, _, _ = opened(stream, MAX_INFLATED_OWN)
        return int(header.get("NumberOfFrames", 1) or 1)
