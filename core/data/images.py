"""Encoded images to rows of bytes (height, width, channels)."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from core.data.cells import Cells
from core.data.columns import Array, Column, Rows
from core.description import InputMapping

MAX_PIXELS = 1 << 26
# What Pillow may try; it has readers that are far less used.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
KINDS = "PNG, JPEG, WebP or BMP"
# Pillow's names of images of more than 8 bits a channel, which it would clip silently.
DEEP_MODES = ("I", "F")
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# What Pillow raises on a damaged image.
DAMAGE = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
)


@final
class ImageColumn(Column):
    """Images (n, height, width, channels) of bytes, decoded when they are read.

    Without `size` in the mapping all must be as large as the first, which also says whether there is colour. Of an
    animation the first picture is taken.
    """

    is_made = True

    def __init__(self, cells: Cells, mapping: InputMapping) -> None:
        self._cells, self._mapping = cells, mapping
        self._colour = mapping.colour or ("grey" if self._open(0).mode in ("L", "1") else "rgb")
        self.shape, self.dtype = (len(cells), *self._decode(0).shape), np.dtype(np.uint8)

    def read(self, rows: Rows) -> Array:
        """The images (len(rows), height, width, channels)."""
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in enumerate(rows.tolist()):
            pixels = self._decode(row)
            if pixels.shape != self.shape[1:]:
                raise self._cells.fail(
                    row,
                    f"has {pixels.shape[1]}×{pixels.shape[0]} pixels; the first has {self.shape[2]}×{self.shape[1]}.",
                    "Set `size` of the input, such as [224, 224]: then every image is brought to it.",
                )
            found[place] = pixels
        return found

    def contents(self, rows: Rows) -> Iterator[bytes]:
        """The bytes of each encoded image."""
        return self._cells.contents(rows)

    def _decode(self, row: int) -> NDArray[np.uint8]:
        image = self._open(row)
        if image.mode.startswith(DEEP_MODES):
            raise self._cells.fail(row, "has more than 8 bits a channel.", "Save the arrays as .npz instead.")
        try:
            pixels = np.asarray(self._fit(image.convert("L" if self._colour == "grey" else "RGB")))
        except DAMAGE as error:
            raise self._cells.fail(row, "is damaged or cut short.") from error
        return pixels if pixels.ndim == 3 else pixels[:, :, None]

    def _open(self, row: int) -> Image.Image:
        try:
            image = Image.open(io.BytesIO(self._cells.store.get(row)), formats=FORMATS)
        except BOMBS as error:
            raise self._cells.fail(row, f"has too many pixels; {MAX_PIXELS:,} are allowed.") from error
        except DAMAGE as error:
            raise self._cells.fail(row, f"is no {KINDS} image that can be read.") from error
        if image.width * image.height > MAX_PIXELS:
            raise self._cells.fail(row, f"has {image.width:,}×{image.height:,} pixels; {MAX_PIXELS:,} are allowed.")
        return image

    def _fit(self, image: Image.Image) -> Image.Image:
        """Shorter side to `resize` and the middle of that, or everything to `size`."""
        mapping, wanted = self._mapping, FILTERS[self._mapping.interpolation]
        if mapping.resize is not None:
            scale = mapping.resize / min(image.size)
            image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), wanted)
        if mapping.size is None or image.size == (mapping.size[1], mapping.size[0]):
            return image
        height, width = mapping.size
        if mapping.resize is None:
            return image.resize((width, height), wanted)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))
