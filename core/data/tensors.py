"""Arrays of a `.safetensors` file: the header is checked by ourselves, the numbers stay on the disk."""

from pathlib import Path
from typing import final

import numpy as np

from core.data.columns import FileColumn
from core.errors import ModelpressError
from core.network.safetensors_header import DTYPES, read_header


@final
class SafetensorsFile:
    """The arrays of one file; opening reads the header only. Raises `invalid_data`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            header = read_header(path, "The file")
        except ModelpressError as error:
            raise ModelpressError("invalid_data", error.detail) from error
        self.entries, self._data_at = header.tensors, header.data_at

    def read(self, name: str) -> FileColumn:
        """The array `name`, which stays on the disk."""
        entry = self.entries[name]
        if entry.dtype == "BF16":
            raise ModelpressError(
                "invalid_data", f"Array `{name}` holds BF16, which is not read.", hint="Save it as F32 or I64."
            )
        if entry.shape == ():
            raise ModelpressError("invalid_data", f"Array `{name}` is a single number.")
        dtype = np.dtype(DTYPES[entry.dtype][0]).newbyteorder("<")
        return FileColumn(self._path, dtype, entry.shape, self._data_at + entry.data_offsets[0])
