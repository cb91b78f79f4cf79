"""Hostile `.pt2` archives: by every way in which torch.export would run them, and by the archive itself."""

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tests.hostile.canary import Canary
from tests.hostile.cases import Case, Members, case, link, raw_zip, same_directory, zip_of_zeros, zipped

DEMO = Path(__file__).parents[2] / "demo" / "lenet5.pt2"
CALLS = (
    "os.system",
    "builtins.eval",
    "_operator.attrgetter",
    "torch.hub.load",
    "torch.ops.aten.from_file.default",
    "torch.ops.aten.linear.__init__",
    "torch.ops.aten.__class__.__base__.__subclasses__",
    "torch.ops.higher_order.while_loop",
    "torch.ops.load_library",
)
TEXTS = (b"", b"{", b"[]", b"[" * 200_000, b'{"a":' * 100_000, b"\xff\xfe{}", b'{"graph_module": 1}', b"9" * 100_000)


@cache
def honest() -> Members:
    """The members of the demo's archive."""
    with zipfile.ZipFile(DEMO) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def named(end: str) -> str:
    return next(name for name in honest() if name.endswith(end))


def with_member(name: str, content: bytes) -> Members:
    return {**honest(), f"network/{name}": content}


def edited(end: str, change: Callable[[Any], object], more: Members | None = None) -> bytes:
    """The demo's archive with one of its JSON members changed."""
    content = json.loads(honest()[named(end)])
    change(content)
    return zipped({**honest(), **(more or {}), named(end): json.dumps(content).encode()})


def archives(canary: Canary) -> Iterator[Case]:
    """Every hostile `.pt2`."""
    yield from _pickles(canary)
    yield from _members(canary)
    yield from _zips(canary)
    yield from _graphs(canary)
    yield from _weights()


def _pickles(canary: Canary) -> Iterator[Case]:
    first = named("weights/weight_0")

    def mark(config: Any) -> None:
        config["config"][next(iter(config["config"]))]["use_pickle"] = True

    for protocol in (0, 2, 4):
        more = {first: canary.pickled(protocol=protocol)}
        yield case(f"pt2-pickled-weight-{protocol}", edited("_weights_config.json", mark, more), "unsafe_file")

    def add(config: Any) -> None:
        config["config"]["c"] = {"path_name": "tensor_0", "is_param": False, "use_pickle": True, "tensor_meta": None}

    more = {"network/data/constants/tensor_0": canary.pickled()}
    yield case("pt2-pickled-constant", edited("_constants_config.json", add, more), "unsafe_file")
    samples = named("sample_inputs/model.pt")
    for protocol in (0, 2, 4):
        members = {**honest(), samples: canary.pickled(protocol=protocol)}
        yield case(f"pt2-bare-samples-{protocol}", zipped(members), "unsafe_file")
        inner = zipped({"archive/data.pkl": canary.pickled(protocol=protocol), "archive/version": b"3\n"})
        yield case(f"pt2-saved-samples-{protocol}", zipped({**honest(), samples: inner}), "unsafe_file")
    packed = zipped({"archive/data.pkl": canary.pickled()}, zipfile.ZIP_DEFLATED)
    yield case("pt2-packed-samples", zipped({**honest(), samples: packed}), "unsafe_file")


def _members(canary: Canary) -> Iterator[Case]:
    for name in (
        "data/constants/custom_obj_0",
        "data/weights/opaque_obj_0",
        "data/aotinductor/model/wrapper.so",
        "extra/run.py",
        "code/run.py",
        "data/weights/../../../../../../tmp/outside",
        "data/weights/weight_0\\..\\outside",
        "data/weights/w\u202eeight",
        "data/weights/" + "w" * 5000,
        "data/weights/inner.zip",
    ):
        title = "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in name)[:40]
        yield case(f"pt2-member-{title}", zipped(with_member(name, canary.pickled())), "unsafe_file")
    yield case("pt2-member-absolute", zipped({**honest(), "/etc/cron.d/x": b"x"}), "unsafe_file")


def _zips(canary: Canary) -> Iterator[Case]:
    bomb = {**honest(), named("weights/weight_0"): bytes(50 << 20)}
    yield case("pt2-deflated", zipped(bomb, zipfile.ZIP_DEFLATED), "unsafe_file")
    yield case("pt2-symlink", link(with_member("data/weights/weight_9", b"/etc/passwd")), "unsafe_file")
    yield case("pt2-folder", zipped(with_member("data/weights/", b"")), "unsafe_file")
    whole = zipped(honest())
    twice = io.BytesIO(whole)
    with zipfile.ZipFile(twice, "a") as archive:
        archive.writestr("network/data/weights/weight_8", b"x")
    name = b"network/data/weights/weight_"
    yield case("pt2-twice", twice.getvalue().replace(name + b"8", name + b"0"), "unsafe_file")
    yield case("pt2-cut", whole[: len(whole) // 2], "corrupt_file")
    yield case("pt2-after-a-pickle", canary.pickled() + whole, "unknown_format", "corrupt_file")
    yield case("pt2-padded", b"PK\x03\x04" + bytes(1000) + whole, "corrupt_file", "unsafe_file")
    overlap = bytearray(whole)
    first, second = list(_places(whole))[:2]
    overlap[second + 42 : second + 46] = overlap[first + 42 : first + 46]
    yield case("pt2-overlap", bytes(overlap), "unsafe_file", "corrupt_file")
    locked = bytearray(whole)
    locked[first + 8] |= 1
    yield case("pt2-encrypted", bytes(locked), "unsafe_file")
    huge = bytearray(whole)
    huge[first + 20 : first + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    yield case("pt2-declares-4-GB", bytes(huge), "corrupt_file", "unsafe_file")
    member = raw_zip(b"000000/archive_format", b"pt2", crc=0, size=3, method=0)
    yield case("pt2-quoted-overlap", same_directory(member, 100_000), "unsafe_file", "corrupt_file")
    yield case("pt2-directory-bomb", same_directory(member, 500_000), "unsafe_file")
    yield case("pt2-300-MB-in-300-kB", zip_of_zeros("x/archive_format", 300 << 20), "unsafe_file")
    declared = raw_zip(b"x/archive_format", bytes(100), crc=0, size=10_000_000_000, method=8)
    yield case("pt2-wrong-size", declared, "unsafe_file", "corrupt_file")
    for method in (9, 12, 14, 93, 99):
        content = raw_zip(b"x/archive_format", bytes(100), crc=0, size=100, method=method)
        yield case(f"pt2-packing-{method}", content, "unsafe_file", "corrupt_file")


def _places(content: bytes) -> Iterator[int]:
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        yield at
        at = content.find(b"PK\x01\x02", at + 4)


def _graphs(canary: Canary) -> Iterator[Case]:
    for target in CALLS:

        def redirect(program: Any, target: str = target) -> None:
            program["graph_module"]["graph"]["nodes"][0]["target"] = target

        yield case(f"pt2-calls-{target}", edited("models/model.json", redirect), "unsupported_operator")

    def compute_size(program: Any) -> None:
        text = f"exec({canary.code!r})"
        for meta in program["graph_module"]["graph"]["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = text

    yield case("pt2-sympy", edited("models/model.json", compute_size), "unsupported_graph", "corrupt_file")

    def grow(program: Any) -> None:
        node = program["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.ops.aten.full.default"
        node["inputs"] = [
            {"name": "size", "arg": {"as_ints": [1 << 20, 1 << 20]}, "kind": 1},
            {"name": "fill_value", "arg": {"as_float": 1.0}, "kind": 1},
        ]

    yield case("pt2-makes-4-TB", edited("models/model.json", grow), "graph_too_large")

    def age(program: Any) -> None:
        program["schema_version"]["major"] = 99

    yield case("pt2-schema", edited("models/model.json", age), "unsupported_version")
    for number, text in enumerate(TEXTS):
        content = zipped({**honest(), named("models/model.json"): text})
        yield case(f"pt2-json-{number}", content, "corrupt_file")


def _weights() -> Iterator[Case]:
    for name, field, value in (
        ("stride", "strides", 1 << 40),
        ("negative-stride", "strides", -1),
        ("no-stride", "strides", 0),
        ("size", "sizes", 1 << 62),
        ("negative-size", "sizes", -5),
    ):

        def stretch(config: Any, field: str = field, value: int = value) -> None:
            config["config"][next(iter(config["config"]))]["tensor_meta"][field][0] = {"as_int": value}

        content = edited("_weights_config.json", stretch)
        yield case(f"pt2-weight-{name}", content, "corrupt_file", "unsupported_graph", "graph_too_large")
