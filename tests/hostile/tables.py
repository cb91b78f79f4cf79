"""Hostile data sets: pickles in arrays, bombs in archives, images and tables, text that never ends."""

import json
import struct
import zlib
from collections.abc import Iterator

from core.description import DatasetSpec, SplitArrays, Task
from tests.hostile.canary import Canary
from tests.hostile.cases import Case, link, raw_zip, same_directory, zip_of_zeros, zipped
from tests.hostile.foreign import safetensors

BAD = frozenset({"invalid_data", "out_of_memory", "timed_out", "no_space"})


def tables(canary: Canary) -> Iterator[Case]:
    """Every hostile data set."""
    yield from _arrays(canary)
    yield from _images()
    yield from _texts()
    for name, content in safetensors():
        if name not in ("negative",):
            yield _case(f"safetensors-{name}", "data.safetensors", content)
    for protocol in (2, 4, 5):
        yield _case(f"pickle-{protocol}", "data.pkl", canary.pickled(protocol=protocol))
    yield _case("arrow", "data.arrow", b"ARROW1" + bytes(200))
    yield _case("parquet-lies", "data.parquet", b"PAR1" + bytes(100) + struct.pack("<I", 0x7FFFFFFF) + b"PAR1")
    yield _case("parquet-garbage", "data.parquet", b"PAR1" + b"\x15\xff" * 500 + struct.pack("<I", 900) + b"PAR1")


def _case(name: str, filename: str, content: bytes, task: Task = "none", x: str = "x") -> Case:
    spec = DatasetSpec(task=task, splits={"evaluation": SplitArrays(x=x)})
    return Case(f"data-{name}", {filename: content}, BAD, "dataset", spec)


def _npy(header: bytes, data: bytes) -> bytes:
    header = header.ljust(118) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + data


def _arrays(canary: Canary) -> Iterator[Case]:
    objects = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    yield _case("npz-objects", "d.npz", zipped({"x.npy": _npy(objects, canary.pickled())}))
    yield _case("npz-pickle", "d.npz", zipped({"x.npy": canary.pickled()}))
    for name, header in (
        ("size", b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"),
        ("negative", b"{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }"),
        ("dims", b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"1," * 2000 + b"), }"),
        ("code", b"{'descr': __import__('os').system('id'), 'fortran_order': False, 'shape': (1,), }"),
        ("depth", b"(" * 5000),
        ("record", b"{'descr': [('a', '|O'), ('b', '<f4')], 'fortran_order': False, 'shape': (1,), }"),
    ):
        yield _case(f"npz-{name}", "d.npz", zipped({"x.npy": _npy(header, bytes(16))}))
    yield _case("npz-bomb", "d.npz", zip_of_zeros("x.npy", 300 << 20))
    one = zipped({"000000.npy": _npy(objects, b"")})
    yield _case("npz-overlap", "d.npz", same_directory(one, 65_000))
    yield _case("npz-link", "d.npz", link({"x.npy": b"/etc/passwd"}))
    yield _case("npz-outside", "d.npz", zipped({"../../../tmp/x.npy": b"x"}))
    yield _case("npz-in-npz", "d.npz", zipped({"x.npy": zipped({"x.npy": b"x"})}))


def _png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    facts = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", facts) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _images() -> Iterator[Case]:
    for name, picture in (
        ("pixel-bomb", _png(100_000, 100_000, zlib.compress(bytes(1 << 20), 9))),
        ("cut", _png(8, 8, zlib.compress(bytes(72)))[:-40]),
        ("no-image", b"\x89PNG\r\n\x1a\n" + bytes(100)),
        ("html", b"<script>alert(1)</script>"),
    ):
        content = zipped({"a/1.png": picture, "b/2.png": picture})
        yield _case(f"images-{name}", "d.zip", content, x="image")
    yield _case("images-link", "d.zip", link({"a/1.png": b"/etc/passwd"}), x="image")
    yield _case(
        "images-zip-bomb", "d.zip", raw_zip(b"a/1.png", bytes(100), crc=0, size=3_000_000_000, method=8), x="image"
    )
    yield _case("images-in-zip", "d.zip", zipped({"a.zip": zipped({"1.png": b"x"})}), x="image")


def _texts() -> Iterator[Case]:
    yield _case("csv-one-cell", "d.csv", b'x,y\n"' + b"a" * (64 << 20), x="x")
    yield _case("csv-columns", "d.csv", b",".join(b"c%d" % n for n in range(200_000)) + b"\n" + b"1," * 10, x="nothing")
    yield _case("jsonl-depth", "d.jsonl", b'{"x": ' + b"[" * 100_000 + b"\n", x="x")
    yield _case("jsonl-number", "d.jsonl", b'{"x": ' + b"9" * 100_000 + b"}\n", "regression", x="x")
    yield _case("nul", "d.txt", bytes(1000))
    backtracks = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a|a|aa)+$"}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"},
    }
    text = (b"a" * 60 + b"!\n") * 50
    files = {"tokenizer.json": json.dumps(backtracks).encode(), "d.txt": text}
    spec = DatasetSpec(task="language_modelling")
    yield Case("data-tokenizer-backtracks", files, BAD, "dataset", spec)
    broken = {**backtracks, "model": {"type": "BPE", "vocab": {"a": 1 << 40}, "merges": ["a b"]}}
    files = {"tokenizer.json": json.dumps(broken).encode(), "d.txt": text}
    yield Case("data-tokenizer-lies", files, BAD, "dataset", spec)
