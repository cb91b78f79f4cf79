"""Hostile and broken files: each gives a typed error, and nothing of them runs."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from core.errors import ModelpressError
from core.network.inspect import inspect, read

Members = dict[str, bytes]


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.path,))


@pytest.fixture
def members(save_pt2) -> Members:
    path = save_pt2(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.zeros(2, 3))
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, members: Members, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def refusal(path: Path) -> ModelpressError:
    with pytest.raises(ModelpressError) as raised:
        inspect(path)
    return raised.value


def named(members: Members, end: str) -> str:
    return next(name for name in members if name.endswith(end))


def edit(members: Members, end: str, change: Callable[[dict], object]) -> Members:
    name = named(members, end)
    content = json.loads(members[name])
    change(content)
    return {**members, name: json.dumps(content).encode()}


class TestPt2:
    def test_the_archive_itself_is_read(self, tmp_path: Path, members: Members) -> None:
        assert read(write(tmp_path / "a", members)).batch == "dynamic"

    def test_a_pickled_weight_is_refused_and_not_run(self, tmp_path: Path, members: Members) -> None:
        canary = tmp_path / "canary"
        pickled = edit(members, "_weights_config.json", self.mark_pickled)
        pickled[named(members, "weights/weight_0")] = pickle.dumps(Canary(canary))
        error = refusal(write(tmp_path / "a", pickled))
        assert error.code == "unsafe_file"
        assert error.node == "0.weight"
        assert not canary.exists()

    @staticmethod
    def mark_pickled(config: dict) -> None:
        config["config"]["0.weight"]["use_pickle"] = True

    @pytest.mark.parametrize("bare", [True, False])
    def test_sample_inputs_that_hold_code_are_refused_and_not_run(
        self, tmp_path: Path, members: Members, bare: bool
    ) -> None:
        canary, saved = tmp_path / "canary", io.BytesIO()
        torch.save(Canary(canary), saved)
        content = pickle.dumps(Canary(canary)) if bare else saved.getvalue()
        members[named(members, "sample_inputs/model.pt")] = content
        error = refusal(write(tmp_path / "a", members))
        assert error.code == "unsafe_file"
        assert "sample_inputs" in error.detail
        assert not canary.exists()

    @pytest.mark.parametrize(
        "name",
        [
            "data/constants/custom_obj_0",
            "data/weights/opaque_obj_0",
            "data/aotinductor/model/x.so",
            "extra/run.py",
            "code/run.py",
            "../outside",
        ],
    )
    def test_other_members_are_refused(self, tmp_path: Path, members: Members, name: str) -> None:
        root = next(iter(members)).partition("/")[0]
        error = refusal(write(tmp_path / "a", {**members, f"{root}/{name}": b"x"}))
        assert error.code == "unsafe_file"
        assert name in error.detail

    def test_absolute_names_are_refused(self, tmp_path: Path, members: Members) -> None:
        assert refusal(write(tmp_path / "a", {**members, "/etc/x": b"x"})).code == "unsafe_file"

    def test_deflated_members_are_refused(self, tmp_path: Path, members: Members) -> None:
        bomb = {**members, named(members, "weights/weight_0"): b"\0" * 1_000_000}
        error = refusal(write(tmp_path / "a", bomb, zipfile.ZIP_DEFLATED))
        assert error.code == "unsafe_file"
        assert "compressed" in error.detail

    def test_a_name_may_not_appear_twice(self, tmp_path: Path, members: Members) -> None:
        path = write(tmp_path / "a", members)
        with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
            archive.writestr(named(members, "weights/weight_0"), b"x")
        assert refusal(path).code == "unsafe_file"

    def test_members_may_not_overlap(self, tmp_path: Path, members: Members) -> None:
        path = write(tmp_path / "a", members)
        content = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            first = archive.start_dir
        second = content.find(b"PK\x01\x02", first + 4)
        # Both entries of the directory point to the first member.
        content[second + 42 : second + 46] = content[first + 42 : first + 46]
        path.write_bytes(content)
        assert refusal(path).code == "unsafe_file"

    def test_symbolic_links_are_refused(self, tmp_path: Path, members: Members) -> None:
        path = tmp_path / "a"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                entry = zipfile.ZipInfo(name)
                entry.external_attr = (0o120777 if name.endswith("weight_0") else 0o100644) << 16
                archive.writestr(entry, content)
        assert refusal(path).code == "unsafe_file"

    def test_weights_shorter_than_their_shape_are_damage(self, tmp_path: Path, members: Members) -> None:
        error = refusal(write(tmp_path / "a", {**members, named(members, "weights/weight_0"): b"\0" * 8}))
        assert error.code == "corrupt_file"
        assert error.node == "0.weight"

    def test_a_huge_stride_does_not_read_past_the_bytes(self, tmp_path: Path, members: Members) -> None:
        def stretch(config: dict) -> None:
            config["config"]["0.weight"]["tensor_meta"]["strides"][0] = {"as_int": 1 << 40}

        assert refusal(write(tmp_path / "a", edit(members, "_weights_config.json", stretch))).code == "corrupt_file"

    @pytest.mark.parametrize(
        "target",
        [
            "torch.ops.aten.from_file.default",
            "torch.ops.aten.linear.__init__",
            "torch.ops.higher_order.cond",
            "os.system",
            "builtins.eval",
            "_operator.attrgetter",
        ],
    )
    def test_calls_outside_the_list_are_refused(self, tmp_path: Path, members: Members, target: str) -> None:
        def redirect(program: dict) -> None:
            program["graph_module"]["graph"]["nodes"][0]["target"] = target

        error = refusal(write(tmp_path / "a", edit(members, "models/model.json", redirect)))
        assert error.code == "unsupported_operator"
        assert error.node == "linear"

    def test_expressions_are_not_evaluated(self, tmp_path: Path, members: Members) -> None:
        canary = tmp_path / "canary"

        def plant(program: dict) -> None:
            for meta in program["graph_module"]["graph"]["tensor_values"].values():
                for size in meta["sizes"]:
                    if "as_expr" in size:
                        size["as_expr"]["expr_str"] = f"__import__('pathlib').Path('{canary}').touch()"

        assert refusal(write(tmp_path / "a", edit(members, "models/model.json", plant))).code == "unsupported_graph"
        assert not canary.exists()

    def test_a_value_too_large_is_refused_before_it_is_made(self, tmp_path: Path, members: Members) -> None:
        def grow(program: dict) -> None:
            node = program["graph_module"]["graph"]["nodes"][1]
            node["target"] = "torch.ops.aten.full.default"
            node["inputs"] = [
                {"name": "size", "arg": {"as_ints": [1 << 20, 1 << 20]}, "kind": 1},
                {"name": "fill_value", "arg": {"as_float": 1.0}, "kind": 1},
            ]

        error = refusal(write(tmp_path / "a", edit(members, "models/model.json", grow)))
        assert error.code == "graph_too_large"
        assert "bytes" in error.detail

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 200_000, b'{"graph_module": 1}', b"\xff\xfe"])
    def test_broken_json_is_damage(self, tmp_path: Path, members: Members, content: bytes) -> None:
        broken = {**members, named(members, "models/model.json"): content}
        assert refusal(write(tmp_path / "a", broken)).code == "corrupt_file"

    def test_a_graph_that_reads_what_nothing_makes_is_damage(self, tmp_path: Path, members: Members) -> None:
        def cut(program: dict) -> None:
            del program["graph_module"]["graph"]["nodes"][0]

        assert refusal(write(tmp_path / "a", edit(members, "models/model.json", cut))).code == "corrupt_file"

    def test_the_name_of_an_argument_is_no_code(self, members: Members, tmp_path: Path) -> None:
        def rename(program: dict) -> None:
            call = program["graph_module"]["graph"]["nodes"][0]
            call["inputs"][-1]["name"] = "a=print(1), b"

        error = refusal(write(tmp_path / "a", edit(members, "models/model.json", rename)))
        assert (error.code, "has no argument 'a=print(1), b'" in error.detail) == ("corrupt_file", True)

    def test_another_schema_is_a_version_not_read(self, tmp_path: Path, members: Members) -> None:
        def age(program: dict) -> None:
            program["schema_version"]["major"] = 7

        changed = edit(members, "models/model.json", age)
        assert refusal(write(tmp_path / "a", changed)).code == "unsupported_version"

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
    def test_a_file_cut_short_is_damage(self, tmp_path: Path, members: Members, share: float) -> None:
        path = write(tmp_path / "a", members)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        assert refusal(path).code == "corrupt_file"

    def test_flipped_bytes_never_escape_as_another_error(self, tmp_path: Path, members: Members) -> None:
        path = write(tmp_path / "a", members)
        content = path.read_bytes()
        generator = np.random.default_rng(0)
        for _ in range(150):
            broken = bytearray(content)
            for position in generator.integers(0, len(content), 3):
                broken[position] = generator.integers(0, 256)
            path.write_bytes(broken)
            try:
                read(path)
            except ModelpressError:
                continue


def relu_model(**changes: object) -> onnx.ModelProto:
    nodes = changes.get("nodes") or [helper.make_node("Relu", ["x"], ["y"], name="act")]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 4])],
        [value("y", TensorProto.FLOAT, None)],
        changes.get("weights") or [],
    )
    opsets = changes.get("opsets") or [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def stored(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


class TestOnnx:
    def test_external_data_is_refused_without_opening_it(self, tmp_path: Path) -> None:
        weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
        weight.external_data.add(key="location", value="../../etc/passwd")
        model = relu_model(nodes=[helper.make_node("Add", ["x", "w"], ["y"])], weights=[weight])
        error = refusal(stored(tmp_path / "a", model))
        assert (error.code, error.node) == ("external_data", "w")

    def test_external_data_in_a_constant_is_refused(self, tmp_path: Path) -> None:
        weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
        weight.external_data.add(key="location", value="x.bin")
        nodes = [helper.make_node("Constant", [], ["c"], value=weight), helper.make_node("Add", ["x", "c"], ["y"])]
        assert refusal(stored(tmp_path / "a", relu_model(nodes=nodes))).code == "external_data"

    def test_a_foreign_domain_is_refused_with_its_node(self, tmp_path: Path) -> None:
        nodes = [helper.make_node("Evil", ["x"], ["y"], name="bad", domain="com.example")]
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
        error = refusal(stored(tmp_path / "a", relu_model(nodes=nodes, opsets=opsets)))
        assert (error.code, error.node) == ("unsupported_operator", "bad")

    def test_control_flow_is_refused_with_its_node(self, tmp_path: Path) -> None:
        branch = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "b", [], [])
        nodes = [helper.make_node("If", ["x"], ["y"], name="choice", then_branch=branch, else_branch=branch)]
        error = refusal(stored(tmp_path / "a", relu_model(nodes=nodes)))
        assert (error.code, error.node) == ("unsupported_operator", "choice")

    def test_functions_that_grow_without_end_are_refused(self, tmp_path: Path) -> None:
        model = relu_model(nodes=[helper.make_node("f20", ["x"], ["y"], domain="local")])
        opset = [helper.make_opsetid("local", 1)]
        for level in range(21):
            inner = [f"f{level - 1}"] * 2 if level else ["Relu", "Relu"]
            nodes = [
                helper.make_node(kind, [start], [end], domain="local" if level else "")
                for kind, start, end in zip(inner, ("a", "m"), ("m", "b"), strict=True)
            ]
            model.functions.append(helper.make_function("local", f"f{level}", ["a"], ["b"], nodes, opset))
        assert refusal(stored(tmp_path / "a", model)).code == "graph_too_large"

    def test_functions_that_call_themselves_are_refused(self, tmp_path: Path) -> None:
        model = relu_model(nodes=[helper.make_node("f", ["x"], ["y"], domain="local")])
        call = helper.make_node("f", ["a"], ["b"], domain="local")
        model.functions.append(helper.make_function("local", "f", ["a"], ["b"], [call], [helper.make_opsetid("", 20)]))
        error = refusal(stored(tmp_path / "a", model))
        assert (error.code, error.node) == ("unsupported_graph", "f")

    def test_graphs_nested_without_end_are_refused(self, tmp_path: Path) -> None:
        inner = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "b", [], [])
        for _ in range(20):
            node = helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner)
            inner = helper.make_graph([node], "b", [], [])
            inner.node[0].attribute.pop()
        node = helper.make_node("If", ["x"], ["y"], then_branch=inner)
        assert refusal(stored(tmp_path / "a", relu_model(nodes=[node]))).code == "graph_too_large"

    def test_an_operator_outside_the_list_is_refused_with_its_node(self, tmp_path: Path) -> None:
        nodes = [helper.make_node("NonZero", ["x"], ["y"], name="count")]
        error = refusal(stored(tmp_path / "a", relu_model(nodes=nodes)))
        assert (error.code, error.node) == ("unsupported_operator", "count")

    @pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Tile"])
    def test_a_bomb_is_refused_before_it_is_made(self, tmp_path: Path, operator: str) -> None:
        sizes = helper.make_tensor("s", TensorProto.INT64, [2], [1 << 20, 1 << 20])
        one = helper.make_tensor("o", TensorProto.FLOAT, [1, 1], [1.0])
        inputs = ["s"] if operator == "ConstantOfShape" else ["o", "s"]
        nodes = [helper.make_node(operator, inputs, ["b"], name="bomb"), helper.make_node("Add", ["x", "b"], ["y"])]
        error = refusal(stored(tmp_path / "a", relu_model(nodes=nodes, weights=[sizes, one])))
        assert (error.code, error.node) == ("graph_too_large", "bomb")

    def test_an_input_of_impossible_size_is_refused(self, tmp_path: Path) -> None:
        model = relu_model()
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1 << 40
        assert refusal(stored(tmp_path / "a", model)).code == "graph_too_large"

    def test_a_tensor_with_too_few_bytes_is_damage(self, tmp_path: Path) -> None:
        weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], raw_data=struct.pack("<f", 1.0))
        nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
        error = refusal(stored(tmp_path / "a", relu_model(nodes=nodes, weights=[weight])))
        assert (error.code, error.node) == ("corrupt_file", "w")

    def test_a_node_that_reads_what_nothing_makes_is_damage(self, tmp_path: Path) -> None:
        nodes = [helper.make_node("Add", ["x", "ghost"], ["y"], name="sum")]
        error = refusal(stored(tmp_path / "a", relu_model(nodes=nodes)))
        assert (error.code, error.node) == ("corrupt_file", "sum")

    def test_an_opset_of_the_future_is_a_version_not_read(self, tmp_path: Path) -> None:
        model = relu_model(opsets=[helper.make_opsetid("", 99)])
        assert refusal(stored(tmp_path / "a", model)).code == "unsupported_version"

    def test_a_graph_without_nodes_is_damage(self, tmp_path: Path) -> None:
        model = relu_model()
        del model.graph.node[:]
        assert refusal(stored(tmp_path / "a", model)).code == "corrupt_file"

    def test_a_file_cut_short_gives_a_typed_error(self, tmp_path: Path) -> None:
        weight = helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0] * 4)
        model = relu_model(nodes=[helper.make_node("Add", ["x", "w"], ["y"])], weights=[weight])
        content = model.SerializeToString()
        path = tmp_path / "a"
        for length in range(1, len(content) - 1):
            path.write_bytes(content[:length])
            with pytest.raises(ModelpressError):
                read(path)

    def test_flipped_bytes_never_escape_as_another_error(self, tmp_path: Path) -> None:
        weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], [1.0] * 16)
        model = relu_model(nodes=[helper.make_node("Gemm", ["x", "w"], ["y"])], weights=[weight])
        content = model.SerializeToString()
        generator = np.random.default_rng(0)
        path = tmp_path / "a"
        for _ in range(150):
            broken = bytearray(content)
            broken[generator.integers(0, len(content))] = generator.integers(0, 256)
            path.write_bytes(broken)
            try:
                inspect(path)
            except ModelpressError:
                continue

    def test_nothing_is_imported_or_written_for_a_zip_of_a_pickle(self, tmp_path: Path) -> None:
        canary = tmp_path / "canary"
        buffer = io.BytesIO()
        torch.save(Canary(canary), buffer)
        (tmp_path / "a").write_bytes(buffer.getvalue())
        assert refusal(tmp_path / "a").code == "unknown_format"
        assert not canary.exists()
