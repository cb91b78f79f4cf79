"""Valid data sets of every format, changed at random: what cannot be read is refused with `invalid_data`.

What is packed (an image, the header of an array) is changed and packed again, so that sums over the archive hold and
the change gets as far as the reader of it.
"""

import io
import json
import resource
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from core.data.inspection import describe_dataset
from core.data.source import DataFile
from core.description import DatasetSpec, Task
from core.errors import ModelpressError

# numpy and Pillow warn of what is odd in a file.
pytestmark = pytest.mark.filterwarnings("ignore")
BOUNDED = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
# What an image of the most pixels that are allowed needs, with its copies.
MOST_BYTES = 1 << 30
TEXTS = ["the cat sat", "a dog ran under it", "x", "good film"] * 4
# Pieces that mean something to one of the readers.
WORDS = (
    *(
        b"\n",
        b'"',
        b",",
        b"\t",
        b"{",
        b"}",
        b"[",
        b"]",
        b"|",
        b"\r",
        b"\0",
        b"\xff",
        b"null",
        b"true",
        b"NaN",
        b"1e999",
    ),
    *(
        b"-1",
        b"9" * 30,
        b"[[]]",
        b'{"a": 1}',
        b'""',
        b"\\ud800",
        "²".encode(),
        b"\xff\xff\xff\xff",
        b"\xff\xff\xff\x7f",
    ),
    *(bytes(4), b"\x7f\xff\xff\xff", bytes(16)),
)
PIECES = st.sampled_from(WORDS) | st.binary(min_size=1, max_size=4)
# A place as a share of the file, how many bytes go, and what comes.
Edit = tuple[float, int, bytes]
EDITS = st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0, 1, 1, 4, 16]), PIECES), min_size=1, max_size=4)


def edited(content: bytes, edits: list[Edit]) -> bytes:
    for share, gone, piece in edits:
        place = int(share * len(content))
        content = content[:place] + piece + content[place + gone :]
    return content


def table(columns: dict[str, object]) -> bytes:
    """Without packing, so that damage gets into the pages; with the names of classes as `datasets` leaves them."""
    features = {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    made = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    pq.write_table(made, buffer, compression="none", use_dictionary="label" in columns)
    return buffer.getvalue()


def lines(rows: list[dict[str, object]]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def picture(kind: str, mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 12, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def array(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


TABLES: tuple[tuple[str, Task, bytes], ...] = (
    ("test.parquet", "classification", table({"text": TEXTS, "label": [0, 1] * 8})),
    ("test.parquet", "none", table({"image": [{"bytes": picture("PNG"), "path": "a"}] * 4})),
    ("t.parquet", "regression", table({"a": np.arange(30.0), "b": np.arange(30) % 4, "target": np.arange(30.0)})),
    ("test.parquet", "token_classification", table({"tokens": [["a", "b"]] * 9, "ner_tags": [[0, 1]] * 9})),
    ("test.csv", "classification", b"text,label\n" + b"".join(b'"a ""b"" c",%d\n' % (n % 3) for n in range(9))),
    ("t.csv", "regression", b"a,b,target\n" + b"".join(b"%d,%f,%d\n" % (n, n / 3, n) for n in range(30))),
    ("test.csv", "multi_label", b"text,labels\n" + b"a b,x|y\nd,y\n" * 9),
    ("test.jsonl", "classification", lines([{"text": text, "label": n % 3} for n, text in enumerate(TEXTS)])),
    ("test.jsonl", "token_classification", lines([{"tokens": ["a", "b"], "ner_tags": [0, 1]}] * 9)),
    ("test.jsonl", "multi_label", lines([{"text": text, "labels": [n % 3, 1]} for n, text in enumerate(TEXTS)])),
    ("t.jsonl", "regression", lines([{"a": n, "b": 2.5, "target": [n, 1.0]} for n in range(20)])),
)
PACKED: tuple[tuple[str, bytes], ...] = (
    ("x.npy", array(np.zeros((6, 4), np.float32))),
    ("x.npy", array(np.asfortranarray(np.ones((6, 4))))),
    ("a/1.png", picture("PNG")),
    ("a/1.png", picture("PNG", "P")),
    ("a/1.jpg", picture("JPEG")),
    ("a/1.webp", picture("WEBP")),
    ("a/1.bmp", picture("BMP")),
    ("a/1.bmp", picture("BMP", "P")),
)


def say(path: Path, content: bytes, name: str, task: Task) -> str | None:
    """The code of the refusal, None for a data set that is read; what is said must be text and memory stay bounded."""
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = None
    try:
        said = describe_dataset([DataFile(path, name)], DatasetSpec(task=task)).model_dump_json()
    except ModelpressError as error:
        code, said = error.code, f"{error.detail} {error.hint}"
    assert said.encode()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MOST_BYTES
    return code


def summed(content: bytes) -> bytes:
    """A PNG with right sums over its chunks, as far as they can be told."""
    if not content.startswith(b"\x89PNG"):
        return content
    parts, place = [content[:8]], 8
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if end + 4 > len(content):
            return content
        parts.append(content[place:end] + struct.pack(">I", zlib.crc32(content[place + 4 : end])))
        place = end + 4
    return b"".join(parts)


def packed(entries: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    return tmp_path / "upload"


@pytest.mark.parametrize(("name", "task", "content"), TABLES)
def test_what_is_changed_is_read_as_long_as_nothing_is(upload: Path, name: str, task: Task, content: bytes) -> None:
    assert say(upload, content, name, task) is None


@BOUNDED
@given(kind=st.sampled_from(TABLES), edits=EDITS)
def test_tables(upload: Path, kind: tuple[str, Task, bytes], edits: list[Edit]) -> None:
    name, task, content = kind
    assert say(upload, edited(content, edits), name, task) in ("invalid_data", None)


@BOUNDED
@given(kind=st.sampled_from(TABLES[:4]), edits=EDITS)
def test_the_footer_of_a_parquet_file(upload: Path, kind: tuple[str, Task, bytes], edits: list[Edit]) -> None:
    name, task, content = kind
    length = int.from_bytes(content[-8:-4], "little") + 8
    footer = edited(content[-length:-8], edits)
    changed = content[:-length] + footer + struct.pack("<I", len(footer)) + b"PAR1"
    assert say(upload, changed, name, task) in ("invalid_data", None)


@BOUNDED
@given(kind=st.sampled_from(PACKED), edits=EDITS, head=st.booleans())
def test_what_is_in_an_archive(upload: Path, kind: tuple[str, bytes], edits: list[Edit], head: bool) -> None:
    name, content = kind
    cut = min(128 if name.endswith(".npy") else 64, len(content)) if head else len(content)
    changed = summed(edited(content[:cut], edits) + content[cut:])
    entries = [(name, changed)] if name.endswith(".npy") else [(f"a/0{name[3:]}", content), (name, changed)]
    assert say(upload, packed(entries), "d.zip", "none") in ("invalid_data", None)


@BOUNDED
@given(kind=st.sampled_from(PACKED), edits=EDITS)
def test_archives(upload: Path, kind: tuple[str, bytes], edits: list[Edit]) -> None:
    assert say(upload, edited(packed([kind, ("b" + kind[0], kind[1])]), edits), "d.zip", "none") in (
        "invalid_data",
        None,
    )
