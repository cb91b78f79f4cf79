"""Ranges, file names and zips."""

import io
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.downloads import disposition, parse_range, zipped
from core.errors import ModelpressError
from core.resources.job import Artifact, ArtifactFile


class TestParseRange:
    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            (None, None),
            ("bytes=0-", (0, 99)),
            ("bytes=10-19", (10, 19)),
            ("bytes=-5", (95, 99)),
            ("bytes=-500", (0, 99)),
            ("bytes=90-500", (90, 99)),
            ("bytes=99-99", (99, 99)),
            # To be ignored, as RFC 9110 allows: malformed, reversed, several at once, other units.
            ("bytes=-", None),
            ("bytes=20-10", None),
            ("bytes=0-1,5-6", None),
            ("lines=0-1", None),
            ("bytes=0-" + "9" * 5000, None),
        ],
    )
    def test_single_ranges_only(self, header: str | None, expected: tuple[int, int] | None) -> None:
        assert parse_range(header, 100) == expected

    @pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
    def test_outside_the_file(self, header: str) -> None:
        with pytest.raises(ModelpressError) as caught:
            parse_range(header, 100)
        assert caught.value.code == "range_not_satisfiable"

    @given(st.text(alphabet="bytes=0123456789-, ", max_size=40), st.integers(1, 1000))
    def test_what_it_gives_is_inside_the_file(self, header: str, size: int) -> None:
        try:
            part = parse_range(header, size)
        except ModelpressError:
            return
        assert part is None or 0 <= part[0] <= part[1] < size


class TestDisposition:
    @given(st.text(min_size=1, max_size=60).filter(lambda text: "\r" not in text))
    def test_no_name_leaves_the_header(self, name: str) -> None:
        try:
            header = disposition(name)
        except UnicodeEncodeError:  # a lone surrogate, which no stored name can hold
            return
        header.encode("ascii")
        assert "\n" not in header
        assert header.count('"') == 2


class Shelf:
    """Blobs in memory, for a function that only reads chunks."""

    def __init__(self, blobs: dict[str, bytes]) -> None:
        self.blobs = blobs

    def get(self, sha256: str, span: tuple[int, int] | None) -> Iterator[bytes]:
        data = self.blobs[sha256]
        yield data[: len(data) // 2]
        yield data[len(data) // 2 :]


def test_zip_of_several_opens_and_is_the_same_each_time() -> None:
    blobs = {"a": b"weights" * 1000, "b": "größe".encode()}
    files = tuple(ArtifactFile(filename=f"{name}.bin", sha256=name, bytes=len(data)) for name, data in blobs.items())
    artifact = Artifact(
        id="art_1",
        created_at=datetime.now(UTC),
        job="job_1",
        kind="model.onnx",
        filename="net.zip",
        sha256="0" * 64,
        bytes=sum(map(len, blobs.values())),
        files=files,
        content_url="",
    )
    first, second = (b"".join(zipped(artifact, Shelf(blobs))) for _ in range(2))
    assert first == second
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == {"a.bin": blobs["a"], "b.bin": blobs["b"]}
