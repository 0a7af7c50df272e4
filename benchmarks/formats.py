"""Every format and source: does it read, what depth and channels, does serving see the same, how fast.

Sample files are written by each format's own library (pydicom, astropy, tifffile, rasterio, h5py, zarr,
webdataset, datasets). "same" compares, to the value, the crop of the image as training reads it with the
crop of the bytes a client would post. With --serve the bytes are posted to the real Triton server, and its
crop and embedding compared with those of the training cache.

    pip install 'jepack[formats]'
    python -m benchmarks.formats              (half a minute)
    python -m benchmarks.formats --serve      (five minutes)
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jepack.decoding import Preprocessing, load, read_raw
from jepack.errors import JepackError
from jepack.files import write_json
from jepack.sources import find_images
from training.data import guess_channels, measure_window, open_cache

OUT = Path(__file__).parent / "results" / "formats.json"
COUNT, SIDE = 64, 256


def deep(channels: int = 1, top: int = 4096) -> Any:
    values = np.random.default_rng(0).integers(0, top, (COUNT, 32, 32, channels), dtype=np.uint16)
    grown = np.repeat(np.repeat(values, SIDE // 32, axis=1), SIDE // 32, axis=2)
    return grown[..., 0] if channels == 1 else grown


def pillow(folder: Path, suffix: str, values: Any) -> None:
    for number, value in enumerate(values):
        Image.fromarray(value).save(folder / f"{number}.{suffix}")


def tiff(folder: Path, values: Any, **options: Any) -> None:
    import tifffile

    for number, value in enumerate(values):
        tifffile.imwrite(folder / f"{number}.tif", value, **options)


def pages(folder: Path) -> None:
    import tifffile

    tifffile.imwrite(folder / "stack.tif", deep(), photometric="minisblack")


def geotiff(folder: Path) -> None:
    import rasterio

    whole = np.random.default_rng(0).integers(1, 4096, (4, 2048, 2048), dtype=np.uint16)
    whole[:, :256, :512] = 0
    with rasterio.open(
        folder / "scene.tif", "w", driver="GTiff", width=2048, height=2048, count=4, dtype="uint16",
        nodata=0, tiled=True, transform=rasterio.Affine(10, 0, 0, 0, -10, 0),
    ) as scene:  # fmt: skip
        scene.write(whole)


def dicom(folder: Path) -> None:
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    for number, value in enumerate(deep()):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.SOPClassUID = SecondaryCaptureImageStorage
        dataset.Rows = dataset.Columns = SIDE
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation, dataset.SamplesPerPixel = 0, 1
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.WindowCenter, dataset.WindowWidth = 1000, 3000
        dataset.PixelData = value.tobytes()
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)


def fits(folder: Path) -> None:
    from astropy.io import fits

    for number, value in enumerate(deep()):
        flux = value.astype(np.float32) / 100 - 3
        flux[0, 0] = np.nan
        fits.PrimaryHDU(flux).writeto(folder / f"{number}.fits")


def hdf5(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "scan.h5", "w") as file:
        file.create_dataset("scans/x", data=deep(2).astype(np.float32), chunks=(1, SIDE, SIDE, 2))


def zarr(folder: Path) -> None:
    import zarr as library

    library.save(str(folder / "scan.zarr"), deep(5).astype(np.int32) - 2000)


def npy(folder: Path) -> None:
    for number, value in enumerate(deep(7)):
        np.save(folder / f"{number}.npy", value)


def colour() -> Any:
    return (deep(3) >> 4).astype(np.uint8)


def shards(folder: Path) -> None:
    import webdataset

    with webdataset.TarWriter(str(folder / "shard-000.tar")) as writer:
        for number, value in enumerate(colour()):
            writer.write(
                {"__key__": f"{number:04d}", "png": Image.fromarray(value), "cls": number % 2}
            )


def parquet(folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    rows = {"image": [Image.fromarray(v) for v in colour()], "label": ["a"] * COUNT}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "data.parquet")


# name, extra, write, --window, tile
CASES: tuple[tuple[str, str, Callable[[Path], None], str | None, int], ...] = (
    ("PNG", "", lambda f: pillow(f, "png", colour()), None, 0),
    ("JPEG", "", lambda f: pillow(f, "jpg", colour()), None, 0),
    ("WebP", "", lambda f: pillow(f, "webp", colour()), None, 0),
    ("BMP", "", lambda f: pillow(f, "bmp", colour()), None, 0),
    ("PNG, 16 bits", "", lambda f: pillow(f, "png", deep()), "p1,p99", 0),
    ("TIFF, 16 bits", "", lambda f: tiff(f, deep(), photometric="minisblack"), "p1,p99", 0),
    ("TIFF, 32-bit float", "", lambda f: tiff(f, deep().astype(np.float32)), "0,4096", 0),
    ("TIFF, 16-bit RGB", "tiff", lambda f: tiff(f, deep(3), photometric="rgb"), "p1,p99", 0),
    ("TIFF pages", "tiff", pages, "p1,p99", 0),
    ("GeoTIFF windows", "geo", geotiff, "p1,p99", SIDE),
    ("DICOM", "dicom", dicom, "dicom", 0),
    ("FITS", "fits", fits, "p1,p99", 0),
    ("HDF5 slices", "hdf5", hdf5, "p1,p99", 0),
    ("zarr slices", "zarr", zarr, "p1,p99", 0),
    ("npy", "", npy, "p1,p99", 0),
    ("WebDataset shard", "", shards, None, 0),
    ("parquet of images", "datasets", parquet, None, 0),
)


def measure(
    name: str,
    extra: str,
    write: Callable[[Path], None],
    window: str | None,
    tile: int,
    root: Path,
    encoders: Any = None,
) -> dict[str, Any]:
    folder = root / name.replace(" ", "-").replace(",", "")
    folder.mkdir()
    write(folder)
    files = find_images(folder, parts=True, tile=tile)
    channels = guess_channels(files)
    span = measure_window(files, window, channels)
    started = time.perf_counter()
    cache = open_cache(
        folder, side=SIDE, channels=channels, window=span, tile=tile, root=root / "cache", workers=1
    )
    took = time.perf_counter() - started
    settings = Preprocessing(
        size=224, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels, window=span
    )
    settings = Preprocessing.from_json(settings.to_json())  # as the bundle keeps it
    from jepack.decoding import crop

    same = all(
        np.array_equal(
            crop(cache[n], settings), load(io.BytesIO(cache.files[n].read()).getvalue(), settings)
        )
        for n in range(0, len(cache), 8)
    )
    asked: dict[str, Any] = {}
    if encoders is not None:
        from benchmarks.served import differences

        bundle = encoders.get(folder, channels, window, tile)
        asked = differences(
            bundle, cache, settings.to_json()["window"], root / f"bundle-{folder.name}"
        )
    return {
        **asked, "format": name, "extra": extra, "reads": len(cache) == len(files), "images": len(cache),
        "depth": str(read_raw(files[0].read()).values.dtype), "channels": channels,
        "window": window, "same_when_served": same, "images_per_s": len(cache) / took,
        "posted_as": "npy" if (files[0].part or "row").split("=")[0] not in ("row", "bytes") else "the file",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", action="store_true", help="ask the real server")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    print(f"{'format':<20} {'extra':<9} reads  depth    ch  window  same  posted as  images/s")
    with tempfile.TemporaryDirectory() as root:
        encoders = None
        if options.serve:
            from benchmarks.served import Encoders

            encoders = Encoders(Path(root))
        for case in CASES:
            try:
                row = measure(*case, Path(root), encoders)
            except (JepackError, ImportError) as error:
                print(f"{case[0]:<20} {case[1]:<9} no: {error}")
                continue
            rows.append(row)
            print(
                f"{row['format']:<20} {row['extra'] or '-':<9} {'yes' if row['reads'] else 'NO':<6} "
                f"{row['depth']:<8} {row['channels']:>2}  {row['window'] or '-':<7} "
                f"{'yes' if row['same_when_served'] else 'NO':<5} {row['posted_as']:<9}  "
                f"{row['images_per_s']:>7.0f}"
                + (
                    f"  served: pixels differ by {row['pixel_difference']}, embeddings by "
                    f"{row['embedding_difference']:.1g} of {row['embedding_largest']:.2g}"
                    if options.serve
                    else ""
                ),
                flush=True,
            )
    told: dict[str, Any] = {"side_px": SIDE, "rows": rows}
    if options.serve:  # no speeds: encoders and servers ran in between
        told["rows"] = [{k: v for k, v in row.items() if k != "images_per_s"} for row in rows]
    else:
        told["threads"] = 1
    out = options.out or OUT.with_name("formats_served.json" if options.serve else "formats.json")
    write_json(out, told)
    print(f"written {out}")


if __name__ == "__main__":
    main()
