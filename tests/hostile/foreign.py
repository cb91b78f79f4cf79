"""Files of other kinds that run code, lie about themselves, or unpack to more than there is room for."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cache

from tests.hostile.canary import Canary
from tests.hostile.cases import REFUSALS, Case, case, link, zip_of_zeros, zipped

MARKUP = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"


def foreign(canary: Canary) -> Iterator[Case]:
    """Files that are no model."""
    for protocol in range(6):
        yield case(f"pickle-{protocol}", canary.pickled(protocol=protocol), "unknown_format")
    yield case(
        "pickle-legacy-torch", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + canary.pickled(), "unknown_format"
    )
    checkpoint = {"archive/data.pkl": canary.pickled(), "archive/version": b"3\n"}
    yield case("torch-checkpoint", zipped(checkpoint), "unknown_format", filename="pytorch_model.bin")
    # Shapes that passed scanners: wrong checksum, strange flag, other names, a member behind a member.
    broken = bytearray(zipped(checkpoint))
    broken[14] ^= 0xFF
    yield case("torch-checkpoint-bad-crc", bytes(broken), "unknown_format", "corrupt_file")
    flagged = bytearray(zipped(checkpoint))
    flagged[6] |= 1
    yield case("torch-checkpoint-flag", bytes(flagged), "unknown_format", "corrupt_file")
    yield case("torch-checkpoint-renamed", zipped({"archive/data.txt": canary.pickled()}), "unknown_format")
    script = {"net/code/__torch__.py": canary.code.encode(), "net/constants.pkl": b"", "net/data.pkl": b""}
    yield case("torchscript", zipped(script), "unknown_format")
    yield case("joblib-gzip", gzip.compress(canary.pickled()), "unknown_format")
    layers = json.dumps({"class_name": "Lambda", "config": {"function": canary.code}}).encode()
    keras = {"config.json": layers, "metadata.json": b"{}", "model.weights.h5": b"\x89HDF\r\n\x1a\n"}
    yield case("keras-lambda", zipped(keras), filename="model.keras")
    yield case("hdf5", b"\x89HDF\r\n\x1a\n" + bytes(512), "unknown_format")
    yield case("tflite", b"\x1c\0\0\0TFL3" + b"\xff" * 512, "unknown_format")
    yield case("gguf-header-bomb", b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 1 << 62), "unknown_format")
    yield case("tar", _tar(), "unknown_format")
    yield case("tar-gz", gzip.compress(_tar()), "unknown_format")
    yield case("shell", b"#!/bin/sh\n" + canary.code.encode(), "unknown_format")
    yield case("svg", MARKUP, "unknown_format", filename="model.svg")
    yield case("empty", b"", "unknown_format", "corrupt_file")
    yield case("empty-zip", b"PK\x05\x06" + bytes(18), "unknown_format", "corrupt_file")
    yield case("zip-in-zip", zipped({"a.zip": zipped({"b.zip": zip_of_zeros("0", 10 << 20)})}), "unknown_format")
    yield case("zip-link", link({"config.json": b"{}", "model.safetensors": b"/etc/passwd"}))
    yield case("npz-of-pickles", _npz(canary), "unknown_format")
    for name, content in safetensors():
        yield case(f"safetensors-{name}", content, filename="model.safetensors")


def folders(canary: Canary) -> Iterator[Case]:
    """Hugging Face folders: with code of their own, with pickles, with impossible sizes, with lying weights."""
    plain = {"model_type": "bert", "architectures": ["BertModel"], "num_hidden_layers": 1, "hidden_size": 4}
    weights = packed({"w": ("F32", [1], [0, 4])}, bytes(4))
    code = canary.code.encode()
    auto = {**plain, "auto_map": {"AutoConfig": "configuration.C", "AutoModel": "modeling.M"}}
    sizes = {"num_hidden_layers": 10**9, "hidden_size": 10**9, "vocab_size": 10**12, "num_attention_heads": 10**6}
    for name, config, more in (
        ("remote-code", auto, {"modeling.py": code, "configuration.py": code}),
        ("code-file", plain, {"modeling_bert.py": code}),
        ("made-up-type", {**plain, "model_type": "../../evil"}, {}),
        ("class-of-another-module", {**plain, "architectures": ["__import__('os').system"]}, {}),
        ("huge", {**plain, **sizes}, {}),
        ("negative-sizes", {**plain, "hidden_size": -4, "num_attention_heads": 0}, {}),
        ("texts-for-numbers", {**plain, "hidden_size": "9" * 10_000}, {}),
        ("hub-name", {**plain, "_name_or_path": "http://169.254.169.254/", "auto_map": {"AutoModel": "a/b--c.D"}}, {}),
    ):
        yield _folder(name, {"config.json": json.dumps(config).encode(), "model.safetensors": weights, **more})
    good = json.dumps(plain).encode()
    yield _folder("pickled-weights", {"config.json": good, "pytorch_model.bin": canary.pickled()})
    yield _folder("deep-config", {"config.json": b'{"a":' * 100_000, "model.safetensors": weights})
    index = json.dumps({"weight_map": {"w": "../../../etc/passwd"}}).encode()
    yield _folder("index-outside", {"config.json": good, "model.safetensors.index.json": index})
    for name, content in safetensors():
        yield _folder(name, {"config.json": good, "model.safetensors": content})
    members = {"config.json": good, "model.safetensors": weights}
    yield case("hf-zip-bomb", zipped({**members, "vocab.txt": bytes(50 << 20)}, zipfile.ZIP_DEFLATED))
    yield case("hf-zip-outside", zipped({**members, "../../../tmp/outside.py": code}))


@cache
def safetensors() -> tuple[tuple[str, bytes], ...]:
    """Names and contents of hostile weights; the first is bar S4's."""
    return tuple(_safetensors())


def _safetensors() -> Iterator[tuple[str, bytes]]:
    empty = b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(empty % number for number in range(900_000)) + b"}"
    yield "900k-tensors", struct.pack("<Q", len(header)) + header
    header = b"{" + b",".join(empty % number for number in range(70_000)) + b"}"
    yield "70k-tensors", struct.pack("<Q", len(header)) + header
    yield "lying-length", struct.pack("<Q", 1 << 60) + b'{"a":1}'
    yield "overlap", packed({"a": ("F32", [4], [0, 16]), "b": ("F32", [4], [8, 24])}, bytes(24))
    yield "hole", packed({"a": ("F32", [1], [0, 4]), "b": ("F32", [1], [8, 12])}, bytes(12))
    yield "overflow", packed({"a": ("F32", [1 << 62, 1 << 62], [0, 4])}, bytes(4))
    yield "negative", packed({"a": ("F32", [-1], [-4, 0])}, bytes(4))
    yield "trailing", packed({"a": ("F32", [1], [0, 4])}, bytes(400))
    text = (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    yield "same-name", struct.pack("<Q", len(text)) + text + bytes(4)


def packed(tensors: dict[str, tuple[str, list[int], list[int]]], data: bytes) -> bytes:
    """A `.safetensors` file whose header says what it is told to."""
    entries = {name: {"dtype": kind, "shape": shape, "data_offsets": at} for name, (kind, shape, at) in tensors.items()}
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + data


def _folder(name: str, files: dict[str, bytes]) -> Case:
    return Case(f"hf-{name}", files, REFUSALS)


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("../../../tmp/outside")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    return buffer.getvalue()


def _npz(canary: Canary) -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return zipped({"x.npy": b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + canary.pickled()})
