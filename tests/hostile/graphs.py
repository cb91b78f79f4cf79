"""Hostile ONNX files: data outside, operators of strangers, bombs, loops without an end, lies about shapes."""

import struct
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.canary import Canary
from tests.hostile.cases import REFUSALS, Case, case

OUTSIDE = (
    "/etc/passwd", "//etc/passwd", "../../etc/passwd", "./../../etc/passwd", "a/../../etc/passwd", "..", ".", "/",
    "..\\..\\etc\\passwd", "C:\\Windows\\win.ini", "\\\\host\\share\\x", "file:///etc/passwd", "http://127.0.0.1/x",
    "/proc/self/environ", "/proc/1/environ", "/dev/zero", "/dev/stdin", "~/.ssh/id_rsa", "$HOME/x", "%2e%2e/passwd",
    "passwd\0.bin", "./model.bin/../passwd", "..%00/passwd", "\u2025/passwd", "x" * 5000, "", " ", "../in/1",
)  # fmt: skip
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
LARGE = (1 << 33) // 4


def graphs(canary: Canary) -> Iterator[Case]:
    """Every hostile ONNX file."""
    yield from _outside()
    yield from _operators(canary)
    yield from _bombs()
    yield from _loops()
    yield from _lies()


def _model(
    *nodes: onnx.NodeProto, weights: tuple[TensorProto, ...] = (), size: int = 4, opset: int = 20
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    found = [value("x", FLOAT, ["n", size])], [value("y", FLOAT, None)]
    graph = helper.make_graph(list(nodes) or [helper.make_node("Relu", ["x"], ["y"])], "g", *found, list(weights))
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


def _case(name: str, model: onnx.ModelProto, *codes: str) -> Case:
    return case(f"onnx-{name}", model.SerializeToString(), *codes, filename="model.onnx")


def _outside() -> Iterator[Case]:
    for number, location in enumerate(OUTSIDE):
        weight = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
        weight.external_data.add(key="location", value=location)
        model = _model(helper.make_node("Add", ["x", "w"], ["y"]), weights=(weight,))
        yield _case(f"outside-{number}", model, "external_data")
    for name, offset, length in (
        ("past", 1 << 60, 16),
        ("negative", -16, 16),
        ("long", 0, 1 << 60),
        ("text", "1e9", 16),
    ):
        weight = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "data.bin"), ("offset", str(offset)), ("length", str(length))):
            weight.external_data.add(key=key, value=value)
        model = _model(helper.make_node("Add", ["x", "w"], ["y"]), weights=(weight,))
        files = {"model.onnx": model.SerializeToString(), "data.bin": bytes(16)}
        yield Case(f"onnx-data-{name}", files, frozenset({"external_data"}))
    inner = TensorProto(name="c", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    inner.external_data.add(key="location", value="/etc/passwd")
    constant = helper.make_node("Constant", [], ["c"], value=inner)
    yield _case("outside-in-constant", _model(constant, helper.make_node("Add", ["x", "c"], ["y"])), "external_data")


def _operators(canary: Canary) -> Iterator[Case]:
    evil = helper.make_node("PyOp", ["x"], ["y"], domain="com.example", code=canary.code)
    yield _case("custom-domain", _model(evil), "unsupported_operator", "unsupported_graph")
    calls = [helper.make_node("f", ["a"], ["b"], domain="com.example")]
    model = _model(helper.make_node("f", ["x"], ["y"], domain="com.example"))
    opset = [helper.make_opsetid("com.example", 1)]
    model.functions.append(helper.make_function("com.example", "f", ["a"], ["b"], calls, opset))
    yield _case("calls-itself", model, "unsupported_graph", "graph_too_large")
    model = _model(helper.make_node("f30", ["x"], ["y"], domain="com.example"))
    for level in range(31):
        kind, domain = (f"f{level - 1}", "com.example") if level else ("Relu", "")
        nodes = [helper.make_node(kind, [a], [b], domain=domain) for a, b in (("a", "m"), ("m", "b"))]
        model.functions.append(helper.make_function("com.example", f"f{level}", ["a"], ["b"], nodes, opset))
    yield _case("grows-without-end", model, "graph_too_large")
    deep = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "b", [], [])
    for _ in range(25):
        deep = helper.make_graph([helper.make_node("If", ["x"], ["z"], then_branch=deep)], "b", [], [])
    model = _model(helper.make_node("If", ["x"], ["y"], then_branch=deep))
    yield _case("nested", model, "graph_too_large", "corrupt_file")
    many = [helper.make_node("Relu", ["x"], [f"v{number}"]) for number in range(100_001)]
    yield _case("100k-nodes", _model(*many), "graph_too_large")
    yield _case("future", _model(opset=9999), "unsupported_version")


def _bombs() -> Iterator[Case]:
    sizes = numpy_helper.from_array(np.array([LARGE]), "s")
    one = helper.make_tensor("o", FLOAT, [1], [1.0])
    limits = (
        helper.make_tensor("a", INT64, [], [0]),
        helper.make_tensor("b", INT64, [], [1 << 40]),
        helper.make_tensor("d", INT64, [], [1]),
    )
    add = helper.make_node("Add", ["x", "big"], ["y"])
    for name, node, weights in (
        ("32-GB-constant", helper.make_node("ConstantOfShape", ["s"], ["big"]), (sizes,)),
        ("expand", helper.make_node("Expand", ["o", "s"], ["big"]), (sizes, one)),
        ("tile", helper.make_node("Tile", ["o", "s"], ["big"]), (sizes, one)),
    ):
        yield _case(name, _model(node, add, weights=weights), "graph_too_large")
    steps = helper.make_node("Range", ["a", "b", "d"], ["r"])
    cast = helper.make_node("Cast", ["r"], ["big"], to=FLOAT)
    yield _case("range", _model(steps, cast, add, weights=limits), "graph_too_large", "out_of_memory")
    yield _case("input", _model(size=1 << 40), "graph_too_large")
    double = [helper.make_node("Concat", [f"v{n}", f"v{n}"], [f"v{n + 1}"], axis=1) for n in range(40)]
    first = helper.make_node("Relu", ["x"], ["v0"])
    yield _case(
        "doubling", _model(first, *double, helper.make_node("Relu", ["v40"], ["y"])), "graph_too_large", "out_of_memory"
    )
    pad = helper.make_tensor("p", INT64, [4], [0, 0, 0, 1 << 40])
    yield _case(
        "pad", _model(helper.make_node("Pad", ["x", "p"], ["y"]), weights=(pad,)), "graph_too_large", "out_of_memory"
    )


def _loops() -> Iterator[Case]:
    """Loops and conditions that run for ever, or until there is no memory left."""
    value = helper.make_tensor_value_info
    for name, operator in (("spins", "Identity"), ("eats", "Concat")):
        inputs = ["v"] if operator == "Identity" else ["v", "v"]
        axis = {} if operator == "Identity" else {"axis": 1}
        nodes = [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node(operator, inputs, ["v2"], **axis)]
        given = [value("i", INT64, []), value("c", TensorProto.BOOL, []), value("v", FLOAT, None)]
        body = helper.make_graph(nodes, "b", given, [value("c2", TensorProto.BOOL, []), value("v2", FLOAT, None)])
        weights = (
            helper.make_tensor("m", INT64, [], [(1 << 63) - 1]),
            helper.make_tensor("t", TensorProto.BOOL, [], [True]),
        )
        yield _case(
            f"loop-{name}", _model(helper.make_node("Loop", ["m", "t", "x"], ["y"], body=body), weights=weights)
        )


def _lies() -> Iterator[Case]:
    add = helper.make_node("Add", ["x", "w"], ["y"])
    for name, weight in (
        ("too-few-bytes", TensorProto(name="w", data_type=FLOAT, dims=[4], raw_data=b"1234")),
        ("negative-size", TensorProto(name="w", data_type=FLOAT, dims=[-4], raw_data=bytes(16))),
        ("overflowing-size", TensorProto(name="w", data_type=FLOAT, dims=[1 << 62, 4], raw_data=bytes(16))),
        ("made-up-type", TensorProto(name="w", data_type=999, dims=[4], raw_data=bytes(16))),
        ("text", helper.make_tensor("w", TensorProto.STRING, [4], [b"a"] * 4)),
    ):
        yield _case(name, _model(add, weights=(weight,)))
    yield _case("ghost", _model(helper.make_node("Add", ["x", "ghost"], ["y"])), "corrupt_file")
    circle = (helper.make_node("Add", ["x", "b"], ["y"]), helper.make_node("Relu", ["y"], ["b"]))
    yield _case("circle", _model(*circle), "corrupt_file", "unsupported_graph")
    kernel = helper.make_tensor("w", FLOAT, [1, 1, 2], [1.0, 1.0])
    cube = helper.make_tensor("q", INT64, [3], [0, 1, 4])
    for name, options in (
        ("stride-0", {"strides": [0]}),
        ("group-0", {"group": 0}),
        ("dilation", {"dilations": [1 << 40]}),
    ):
        nodes = (helper.make_node("Reshape", ["x", "q"], ["z"]), helper.make_node("Conv", ["z", "w"], ["y"], **options))
        yield _case(name, _model(*nodes, weights=(kernel, cube)))
    whole = helper.make_tensor("i", INT64, [4], [0, 1, 2, 1 << 62])
    yield _case("gather-outside", _model(helper.make_node("Gather", ["x", "i"], ["y"], axis=1), weights=(whole,)))
    zero = helper.make_tensor("z", INT64, [1], [0])
    nodes = (
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Div", ["s", "z"], ["d"]),
        helper.make_node("ConstantOfShape", ["d"], ["y"]),
    )
    yield _case("division-by-zero", _model(*nodes, weights=(zero,)))
    whole_file = _model().SerializeToString()
    yield case("onnx-cut", whole_file[:-9], "corrupt_file")
    yield case(
        "onnx-long-varint", b"\x08\x0a\x3a" + b"\xff" * 9 + b"\x7f" + whole_file, "corrupt_file", "unknown_format"
    )
    yield case(
        "onnx-lying-length",
        b"\x08\x0a\x3a" + struct.pack("<I", 0xFFFFFFFF) + whole_file,
        "corrupt_file",
        "unknown_format",
    )
    model = _model()
    model.graph.node[0].name = "NAME"
    yield case("onnx-no-text", model.SerializeToString().replace(b"NAME", b"\xff\xfe\xfd\xfc"), "corrupt_file")
    yield Case("onnx-two", {"a.onnx": whole_file, "b.onnx": whole_file}, REFUSALS)
