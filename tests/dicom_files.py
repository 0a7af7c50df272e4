"""DICOM files of every transfer syntax and colour layout that can be written here."""

from __future__ import annotations

import io
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import convert_color_space

NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)


def colours(count: int = 3, height: int = 24, width: int = 32) -> Any:
    """[F, H, W, 3] uint8: smooth, unlike each other, none of them grey."""
    y, x = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    made = []
    for n in range(count):
        red, green, blue = 200 - 60 * n + 40 * x, 40 + 30 * n + 100 * y, 90 + 60 * n - 30 * x * y
        made.append(np.stack([red, green, blue], axis=-1))
    return np.rint(np.clip(made, 0, 255)).astype(np.uint8)


def deep(count: int = 3, bits: int = 12) -> Any:
    """[F, H, W] uint16 of some bits."""
    return (colours(count).astype(np.uint32).sum(axis=-1) * (2**bits - 1) // 765).astype(np.uint16)


def header(rows: int, columns: int, syntax: Any, **tags: Any) -> Any:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.7"
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.SecondaryCaptureImageStorage, "2.25.7"
    dataset.PatientName = "Someone^Private"
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PhotometricInterpretation = 15, "MONOCHROME2"
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def written(dataset: Any) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def with_pixels(dataset: Any, frames: list[bytes]) -> bytes:
    """The dataset with its frames, as a file; compressed frames one to a fragment."""
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset.PixelData = encapsulate(frames)
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    else:
        data = b"".join(frames)
        dataset.PixelData = data + b"\0" * (len(data) % 2)
        dataset["PixelData"].VR = "OB" if dataset.BitsAllocated <= 8 else "OW"
    return written(dataset)


def grey(values: Any, syntax: Any, bits: int = 12, **tags: Any) -> bytes:
    """A file of [F, H, W] values, compressed as the syntax says."""
    signed = values.dtype.kind == "i"
    dataset = header(*values.shape[1:], syntax, BitsStored=bits, HighBit=bits - 1)
    dataset.PixelRepresentation = int(signed)
    if bits == 8:
        dataset.BitsAllocated = 8
    for name, value in tags.items():
        setattr(dataset, name, value)
    return with_pixels(dataset, [packed(frame, syntax, bits) for frame in values])


def packed(frame: Any, syntax: Any, bits: int, how: str = "") -> bytes:
    """One frame's bytes: [H, W] of any depth, or [H, W, 3] uint8 whose colours are left as they are."""
    ycc: dict[str, Any] = {}
    if frame.ndim == 3:
        space = "RGB" if how == "RGB" else "YCBCR"
        ycc = {"colorspace": space, "outcolorspace": space, "subsampling": "444"}
    plain = frame if frame.dtype.kind == "u" else (frame & (2**bits - 1)).astype(np.uint16)
    if syntax in NATIVE:
        order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
        return frame.astype(frame.dtype.newbyteorder(order)).tobytes()
    if syntax == uid.RLELossless:
        return run_lengths(frame)
    if syntax == uid.JPEGBaseline8Bit:
        return imagecodecs.jpeg8_encode(frame, level=98, **ycc)
    if syntax == uid.JPEGExtended12Bit:
        return imagecodecs.jpeg8_encode(plain, level=98, bitspersample=bits, **ycc)
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        predictor = 1 if syntax == uid.JPEGLosslessSV1 else 6
        stream = imagecodecs.jpeg8_encode(
            plain, lossless=True, predictor=predictor, bitspersample=bits, **ycc
        )
        # The encoder names table 0 for all components, and uses the second one for chroma.
        scan = b"\xff\xda\x00\x0c\x03\x01\x00\x02%b\x03%b"
        return stream.replace(scan % (b"\0", b"\0"), scan % (b"\x10", b"\x10"))
    if syntax in (uid.JPEGLSLossless, uid.JPEGLSNearLossless):
        return imagecodecs.jpegls_encode(plain, level=2 * (syntax == uid.JPEGLSNearLossless))
    if syntax in (uid.HTJ2K, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL):
        return imagecodecs.htj2k_encode(frame, reversible=syntax != uid.HTJ2K, rgb=frame.ndim == 3)
    lossless = syntax == uid.JPEG2000Lossless
    return imagecodecs.jpeg2k_encode(
        frame, level=0 if lossless else 60, codecformat="j2k", reversible=lossless,
        bitspersample=bits, mct=frame.ndim == 3,
    )  # fmt: skip


def run_lengths(frame: Any) -> bytes:
    from pydicom.pixels.encoders import RLELosslessEncoder

    samples = 1 if frame.ndim == 2 else 3
    return RLELosslessEncoder.encode(
        frame.tobytes(), rows=frame.shape[0], columns=frame.shape[1], samples_per_pixel=samples,
        number_of_frames=1, bits_allocated=8 * frame.itemsize, bits_stored=8 * frame.itemsize,
        pixel_representation=0, planar_configuration=0,
        photometric_interpretation="RGB" if samples == 3 else "MONOCHROME2",
    )  # fmt: skip


def coloured(frames: Any, syntax: Any, how: str, planar: int = 0) -> bytes:
    """A file of [F, H, W, 3] uint8 RGB, its colours kept as `how` says."""
    dataset = header(
        *frames.shape[1:3], syntax, SamplesPerPixel=3, PlanarConfiguration=planar,
        BitsAllocated=8, BitsStored=8, HighBit=7, PhotometricInterpretation=how,
    )  # fmt: skip
    made = []
    for frame in frames:
        stored = convert_color_space(frame, "RGB", "YBR_FULL") if "FULL" in how else frame
        if how == "YBR_FULL_422" and syntax in NATIVE:
            pairs = stored.reshape(-1, 2, 3)  # luma of both, chroma of the first
            made.append(np.stack([*pairs[:, :, 0].T, *pairs[:, 0, 1:].T], axis=-1).tobytes())
        elif how == "YBR_FULL_422":
            stream = io.BytesIO()
            Image.fromarray(frame).save(stream, "JPEG", quality=98, subsampling=1)
            made.append(stream.getvalue())
        elif planar and syntax in NATIVE:
            made.append(np.moveaxis(stored, 2, 0).tobytes())
        else:
            made.append(packed(stored, syntax, 8, how))
    return with_pixels(dataset, made)
