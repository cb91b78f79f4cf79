"""Near twins of images: how many are told where there are none, and how many of those that were stored again are found.

    python -m benchmarks.near_twins demo/mnist.npz ../shared/data/{fashion_mnist,cifar10_small}.npz

Samples of each file: `x_train` (at most 20,000) and `x_test` (at most 2,000). Then 400 of the test images are stored
again in each way and added to the training images. Of each way: images found of the 400.
"""

import argparse
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.data.dataset import open_dataset
from core.data.similarity import Similar, count_near_duplicates
from core.description import DatasetSpec, InputMapping

Images = NDArray[np.uint8]
TRAIN, TEST, COPIES = 20_000, 2_000, 400
# How an image is stored again: format, quality, and its sides as a share of what they were.
WAYS: tuple[tuple[str, int, float], ...] = (
    ("JPEG", 95, 1.0),
    ("JPEG", 75, 1.0),
    ("JPEG", 50, 1.0),
    ("WEBP", 75, 1.0),
    ("JPEG", 75, 2.0),
    ("PNG", 0, 0.75),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Near twins of images.")
    parser.add_argument("files", nargs="+", type=Path)
    for path in parser.parse_args().files:
        with np.load(path) as arrays:
            train, test = arrays["x_train"][:TRAIN], arrays["x_test"][:TEST]
        began = time.perf_counter()
        found = count(train, test)
        print(f"{path.name}: {found.found} of {found.compared:,} told, {time.perf_counter() - began:.1f} s")
        before = {twin.row for twin in found.twins}
        rows = [row for row in range(COPIES) if row not in before]
        for kind, quality, scale in WAYS:
            again = np.stack([store(test[row], kind, quality, scale) for row in rows])
            planted = count(np.concatenate([train, again]), test[rows])
            print(f"  {kind} {quality or ''} at {scale:g}: {planted.found} of {len(rows)}")


def count(train: Images, test: Images) -> Similar:
    """The near twins of `test` among `train`."""
    layout: Any = "NHWC" if train.ndim == 4 else "NHW"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        np.savez(path, x_train=train, x_test=test)
        found = count_near_duplicates(
            open_dataset([path], DatasetSpec(task="none", inputs={"x": InputMapping(layout=layout)}))
        )
    assert found is not None
    return found


def store(pixels: Images, kind: str, quality: int, scale: float) -> Images:
    """The image as it is after it was resized, stored, and brought back to its size."""
    image = Image.fromarray(pixels)
    sides = (round(image.width * scale), round(image.height * scale))
    buffer = io.BytesIO()
    image.resize(sides, Image.Resampling.BILINEAR).save(buffer, kind, quality=quality)
    again = Image.open(buffer).convert(image.mode).resize(image.size, Image.Resampling.BILINEAR)
    return np.asarray(again)


if __name__ == "__main__":
    main()
