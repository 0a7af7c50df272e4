"""A deep image posted to the real server gives what it gave at training, in every format."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.client import Client
from jepack.decoding import crop, load
from jepack.machine.threads import cores
from training.data import open_cache

pytestmark = pytest.mark.triton
WINDOW = (500.0, 3000.0)
VALUES = np.random.default_rng(0).integers(0, 4096, (90, 70), dtype=np.uint16)


def pillow(path: Path) -> None:
    Image.fromarray(VALUES).save(path)


def colour_tiff(path: Path) -> None:
    colours = np.stack([VALUES, VALUES[::-1], VALUES[:, ::-1]], axis=-1)
    pytest.importorskip("tifffile").imwrite(path, colours, photometric="rgb", compression="lzw")


def tiff_pages(path: Path) -> None:
    pytest.importorskip("tifffile").imwrite(path, np.stack([VALUES, VALUES[::-1]]))


def geotiff(path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    place = {"transform": rasterio.Affine(10, 0, 0, 0, -10, 0), "nodata": 0}
    size = {"width": 140, "height": 90, "count": 1, "dtype": "uint16"}
    with rasterio.open(path, "w", driver="GTiff", **size, **place) as scene:
        scene.write(np.hstack([VALUES, VALUES])[None])


def white_tiff(path: Path) -> None:
    tag = [(42113, "s", 0, str(int(VALUES[0, 0])), True)]  # nodata, as GDAL notes it
    how = {"photometric": "miniswhite", "extratags": tag, "metadata": None}
    pytest.importorskip("tifffile").imwrite(path, VALUES, **how)


def white_pages(path: Path) -> None:
    with pytest.importorskip("tifffile").TiffWriter(path) as writer:
        for page in (VALUES, VALUES[::-1]):
            writer.write(page, photometric="miniswhite", metadata=None)


def jpeg_2000(path: Path) -> None:
    codecs = pytest.importorskip("imagecodecs")
    path.write_bytes(codecs.jpeg2k_encode(VALUES, bitspersample=12, reversible=True, level=0))


def dicom(path: Path, frames: int = 1) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.Rows, dataset.Columns = VALUES.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation, dataset.SamplesPerPixel = 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.RescaleSlope, dataset.RescaleIntercept = "1.5", -1024
    dataset.NumberOfFrames = frames
    dataset.PixelData = VALUES.tobytes() * frames
    dataset.save_as(path, enforce_file_format=True)


def compressed_loop(path: Path, syntax: str) -> None:
    """Two frames of a transfer syntax; lossy ones show whether both sides decode to the same bit."""
    pytest.importorskip("pydicom")
    pytest.importorskip("imagecodecs")
    from dicom_files import grey
    from pydicom import uid

    path.write_bytes(grey(np.stack([VALUES, VALUES[::-1]]), getattr(uid, syntax)))


def fits(path: Path) -> None:
    flux = VALUES.astype(np.float32) * np.float32(0.9)
    flux[0, 0] = np.nan
    pytest.importorskip("astropy.io.fits").PrimaryHDU(flux).writeto(path)


def hdf5(path: Path) -> None:
    with pytest.importorskip("h5py").File(path, "w") as file:
        file["scans/x"] = VALUES[None].astype(np.float32)


FORMATS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "PNG": ("a.png", pillow),
    "TIFF": ("a.tif", pillow),
    "TIFF, colour, LZW": ("a.tif", colour_tiff),
    "TIFF pages": ("a.tif", tiff_pages),
    "TIFF, min is white, nodata": ("a.tif", white_tiff),
    "TIFF pages, min is white": ("a.tif", white_pages),
    "JPEG 2000": ("a.jp2", jpeg_2000),
    "GeoTIFF windows": ("a.tif", geotiff),
    "DICOM": ("a.dcm", dicom),
    "DICOM frames": ("a.dcm", lambda path: dicom(path, 2)),
    **{
        f"DICOM loop, {name}": ("a.dcm", lambda path, name=name: compressed_loop(path, name))
        for name in (
            "JPEGExtended12Bit",
            "JPEGLosslessSV1",
            "JPEGLSLossless",
            "JPEG2000",
            "RLELossless",
        )
    },
    "FITS": ("a.fits", fits),
    "HDF5 slices": ("a.h5", hdf5),
    "zarr slices": (
        "a.zarr",
        lambda path: pytest.importorskip("zarr").save(str(path), VALUES[None].astype(np.int32)),
    ),
    "npy": ("a.npy", lambda path: np.save(path, VALUES)),
}


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory, exported_bundle: Bundle) -> Iterator[Any]:
    """(bundle, client, graph) of the small bundle under a window, behind the real server."""
    from serving.server import TritonServer

    folder = tmp_path_factory.mktemp("deep")
    shutil.copytree(exported_bundle.folder, folder / "bundle")
    changed = {**exported_bundle.preprocessing.to_json(), "window": [list(WINDOW)]}
    with bundles.editing(bundles.load(folder / "bundle"), {"preprocessing": changed}):
        pass
    bundle = bundles.load(folder / "bundle")
    assert bundle.fingerprints != exported_bundle.fingerprints
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()  # as the server has it: sums in the same order
    graph = onnxruntime.InferenceSession(bundle.onnx(), options, providers=["CPUExecutionProvider"])
    with (
        TritonServer(bundle, http_port=0, grpc_port=0, metrics_port=0, log_file=folder / "log") as server,
        Client(server.url) as client,
    ):  # fmt: skip
        yield bundle, client, graph


@pytest.mark.parametrize("name", FORMATS)
def test_the_server_sees_what_training_saw(name: str, deep: Any, tmp_path: Path) -> None:
    bundle, client, graph = deep
    file, write = FORMATS[name]
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / file)
    cache = open_cache(
        tmp_path / "data", side=90, channels=1, window=(WINDOW,), root=tmp_path, max_bad=0,
        tile=90 if name.startswith("GeoTIFF") else 0,
    )  # fmt: skip
    trained = crop(cache[0], bundle.preprocessing)
    assert trained.std() > 30  # there is something to compare
    compare(client.embed([cache.files[0].read()]), graph, trained)


def compare(found: Any, graph: Any, pixels: Any) -> None:
    expected = graph.run(["pooler_output", "projection"], {"pixel_values": pixels[None]})
    for got, want in zip((found.embedding, found.projection), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_deep_values_are_not_cut_to_eight_bits_before_the_window(deep: Any) -> None:
    bundle, client, graph = deep
    stream = io.BytesIO()
    np.save(stream, np.where(VALUES > 2000, np.uint16(2010), np.uint16(1990)))
    seen = load(stream.getvalue(), bundle.preprocessing)
    # 20 of 2,500 values; high bytes would be equal
    assert 0 < int(seen.max()) - int(seen.min()) <= 4
    compare(client.embed([stream.getvalue()]), graph, seen)
