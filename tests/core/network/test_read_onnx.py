"""ONNX operators, one graph each, compared with onnxruntime by the inspection itself."""

import onnx
import pytest
import torch

from core.errors import ModelpressError
from core.network.inspect import inspect, read

torch.manual_seed(0)
UNARY = (
    "Relu",
    "HardSwish",
    "Mish",
    "Sigmoid",
    "Tanh",
    "Softplus",
    "Softsign",
    "Erf",
    "Exp",
    "Abs",
    "Neg",
    "Sign",
    "Floor",
    "Ceil",
    "Round",
    "Sin",
    "Cos",
    "Selu",
    "Identity",
    "Softmax",
    "LogSoftmax",
    "Gelu",
    "HardSigmoid",
    "Elu",
    "Celu",
    "LeakyRelu",
    "Flatten",
    "Transpose",
    "Dropout",
)
IMAGE = "float[n,3,8,9] x"
GRAPHS = {
    "add constant": "g (float[n,4] x) => (float[n,4] y) <float[4] c = {1., 2., 3., 4.}> { y = Add(c, x) }",
    "scalars": """g (float[n,4] x) => (float[n,4] y) <float two = {2.}> {
        a = Mul(x, two) b = Sub(two, a) c = Div(b, two) d = Pow(c, two) y = Add(two, d) }""",
    "one divided": """g (float[n,4] x) => (float[n,4] y)
        <float one = {1.}> { a = Exp(x) b = Add(a, one) y = Div(one, b) }""",
    "compare": """g (float[n,4] x) => (float[n,4] y) <float z = {0.}> {
        a = Greater(x, z) b = Less(x, z) c = Or(a, b) d = Not(c) y = Where(d, z, x) }""",
    "clip": "g (float[n,4] x) => (float[n,4] y) <float lo = {-0.5}, float hi = {0.5}> { y = Clip(x, lo, hi) }",
    "clip below": "g (float[n,4] x) => (float[n,4] y) <float lo = {-0.5}> { y = Clip(x, lo) }",
    "max and min": "g (float[n,4] x) => (float[n,4] y) <float[1] z = {0.1}> { a = Max(x, z) y = Min(a, x, z) }",
    "cast": "g (float[n,4] x) => (float[n,4] y) { a = Cast<to = 7>(x) y = Cast<to = 1>(a) }",
    "mean": "g (float[n,3,4] x) => (float[n,3] y) <int64[1] a = {-1}> { y = ReduceMean<keepdims = 0>(x, a) }",
    "sums": """g (float[n,3,4] x) => (float[n,1,1] y) <int64[2] a = {1, 2}> {
        s = ReduceSum(x, a) t = ReduceMax(x, a) u = ReduceMin(x, a) v = ReduceL2(x, a) w = ReduceSumSquare(x, a)
        y = Sum(s, t, u, v, w) }""",
    "argmax": "g (float[n,5] x) => (int64[n] y) { y = ArgMax<axis = 1, keepdims = 0>(x) }",
    "matmul": """g (float[n,3,4] x) => (float[n,3,3] y) {
        t = Transpose<perm = [0, 2, 1]>(x) y = MatMul(x, t) }""",
    "max pool": f"""g ({IMAGE}) => (float[n,3,a,b] y)
        {{ y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x) }}""",
    "max pool uneven": f"""g ({IMAGE}) => (float[n,3,a,b] y) {{
        y = MaxPool<kernel_shape=[3,2], strides=[2,2], pads=[0,0,1,1]>(x) }}""",
    "max pool ceil": f"""g ({IMAGE}) => (float[n,3,a,b] y)
        {{ y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x) }}""",
    "max pool same": f"""g ({IMAGE}) => (float[n,3,a,b] y) {{
        y = MaxPool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">(x) }}""",
    "average pool": f"""g ({IMAGE}) => (float[n,3,a,b] y) {{
        y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x) }}""",
    "average pool counted": f"""g ({IMAGE}) => (float[n,3,a,b] y) {{
        y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x) }}""",
    "global pools": f"""g ({IMAGE}) => (float[n,3,1,1] y)
        {{ a = GlobalAveragePool(x) b = GlobalMaxPool(x) y = Add(a, b) }}""",
    "reshape by zero": "g (float[n,3,4] x) => (float[n,12] y) <int64[2] s = {0, -1}> { y = Reshape(x, s) }",
    "reshape by shape": """g (float[n,3,4] x) => (float[m,4] y) <int64[1] z = {0}, int64[1] t = {3}, int64[1] f = {4}> {
        s = Shape(x) b = Gather<axis = 0>(s, z) r = Mul(b, t) q = Concat<axis = 0>(r, f) y = Reshape(x, q) }""",
    "flatten all": "g (float[n,3,4] x) => (float[n,12] y) { y = Flatten<axis = 1>(x) }",
    "squeeze": """g (float[n,1,4] x) => (float[n,4,1] y) <int64[1] a = {1}, int64[1] b = {-1}> {
        s = Squeeze(x, a) y = Unsqueeze(s, b) }""",
    "slice": """g (float[n,6,5] x) => (float[n,2,5] y) <int64[2] s = {1, -1}, int64[2] e = {5, -9},
        int64[2] a = {1, 2}, int64[2] t = {2, -1}> { y = Slice(x, s, e, a, t) }""",
    "split": """g (float[n,6] x) => (float[n,2] y) <int64[3] p = {1, 3, 2}> {
        a, b, c = Split<axis = 1>(x, p) d = Slice(b, _o, _p, _o) y = Mul(d, c) }""",
    "split equally": """g (float[n,6] x) => (float[n,3] y)
        { a, b = Split<axis = 1, num_outputs = 2>(x) y = Mul(a, b) }""",
    "gather": """g (float[n,6] x) => (float[n,2] y) <int64[2] i = {5, -2}> { y = Gather<axis = 1>(x, i) }""",
    "gather one": """g (float[n,6] x) => (float[n] y) <int64 i = {-2}> { y = Gather<axis = 1>(x, i) }""",
    "gather elements": """g (float[n,6] x, int64[n,2] i) => (float[n,2] y) { y = GatherElements<axis = 1>(x, i) }""",
    "expand to batch": """g (float[n,4] x) => (float[n,4] y)
        <int64[1] z = {0}, int64[1] f = {4}, float[1,4] c = {1.,2.,3.,4.}> {
        s = Shape(x) b = Gather<axis = 0>(s, z) q = Concat<axis = 0>(b, f) e = Expand(c, q) y = Add(x, e) }""",
    "zeros of batch": """g (float[n,4] x) => (float[n,4] y) { s = Shape(x) z = ConstantOfShape(s) y = Sub(z, x) }""",
    "tile": "g (float[n,2] x) => (float[n,6] y) <int64[2] r = {1, 3}> { y = Tile(x, r) }",
    "pad": f"g ({IMAGE}) => (float[n,3,a,b] y) <int64[8] p = {{0,0,1,2,0,0,0,1}}> {{ y = Pad(x, p) }}",
    "pad reflected": f"""g ({IMAGE}) => (float[n,3,a,b] y)
        <int64[8] p = {{0,0,1,2,0,0,2,1}}> {{ y = Pad<mode="reflect">(x, p) }}""",
    "pad edge": f"""g ({IMAGE}) => (float[n,3,a,b] y)
        <int64[8] p = {{0,0,1,2,0,0,2,1}}> {{ y = Pad<mode="edge">(x, p) }}""",
    "triangle": """g (float[n,4,4] x) => (float[n,4,4] y) <int64 k = {1}> {
        a = Trilu<upper = 0>(x) b = Trilu<upper = 1>(x, k) y = Sub(a, b) }""",
    "causal mask": """g (float[n,4,4] x) => (float[n,4,4] y)
        <float one = {1.}, int64[2] s = {4, 4}, float z = {0.}, float low = {-9.}> {
        e = Expand(one, s) t = Trilu<upper = 0>(e) q = Equal(t, z) m = Where(q, low, z) y = Add(x, m) }""",
    "range": """g (float[n,4] x) => (float[n,4] y)
        <int64 a = {0}, int64 b = {4}, int64 c = {1}> { r = Range(a, b, c) f = Cast<to = 1>(r) y = Add(x, f) }""",
    "depth to space": 'g (float[n,8,2,3] x) => (float[n,2,4,6] y) { y = DepthToSpace<blocksize = 2, mode = "CRD">(x) }',
    "scale from a shape": """g (float[n,4] x) => (float[n,4] y) <int64 i = {1}> {
        s = Shape(x) d = Gather<axis = 0>(s, i) f = Cast<to = 1>(d) r = Sqrt(f) y = Div(x, r) }""",
    "resize by free sizes": """g (float[n,2,h,w] x) => (float[n,2,a,b] y) <float[4] s = {1., 1., 2., 2.}> {
        e = Identity(x) a = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric",
        nearest_mode = "floor">(e, _r, s) b = Resize<mode = "linear">(e, _r, s) y = Add(a, b) }""",
    "resize by matrices": f"""g ({IMAGE}) => (float[n,3,a,b] y) <int64[4] z = {{0, 3, 5, 12}}> {{
        s = Shape<start = 0, end = 1>(x) t = Slice(z, o, p) q = Concat<axis = 0>(s, t)
        y = Resize<mode = "cubic", antialias = 1>(x, _r, _r, q) }}""",
    "depth and space": """g (float[n,8,4,6] x) => (float[n,8,4,6] y) {
        a = SpaceToDepth<blocksize = 2>(x) y = DepthToSpace<blocksize = 2>(a) }""",
    "scores": """g (float[n,2,4,8] q, float[n,2,4,8] k) => (float[n,2,4,8] y) {
        y = Attention<is_causal = 1>(q, k, k) }""",
    "constant branch": """g (float[n,4] x) => (float[n,4] y) <bool c = {1}> {
        y = If(c) <then_branch = t () => (float[n,4] o) <float[1] w = {2.}> { o = Mul(x, w) },
                   else_branch = e () => (float[n,4] o) { u = Unique(x) o = Neg(x) }> }""",
    "branch by a shape": """g (float[n,4] x) => (float[n,4] y) <int64 one = {1}, int64 i = {1}> {
        s = Shape(x) d = Gather<axis = 0>(s, i) c = Equal(d, one)
        y = If(c) <then_branch = t () => (float[n,4] o) { o = Neg(x) },
                   else_branch = e () => (float[n,4] o) { r = Abs(x) o = Sqrt(r) }> }""",
    "branch with a constant": """g (float[n,4] x) => (float[n,4] y) <int64 one = {1}, int64 i = {1}> {
        s = Shape(x) d = Gather<axis = 0>(s, i) c = Equal(d, one)
        y = If(c) <then_branch = t () => (float[n,4] o) { o = Neg(x) },
                   else_branch = e () => (float[n,4] o) { w = Constant<value = float[1] {2.}>() o = Mul(x, w) }> }""",
    "pads turned around": """g (float[n,4,5] x) => (float[n,a,b] y)
        <int64[6] p = {1,2,3,4,0,0}, int64[2] q = {-1,2}, int64[1] z = {0}, int64[1] last = {-1},
         int64[1] low = {-9223372036854775807}, int64[1] flat = {-1}> {
        r = Reshape(p, q) c = Slice(r, last, low, z, last) t = Transpose<perm = [1, 0]>(c) f = Reshape(t, flat)
        i = Cast<to = 7>(f) y = Pad(x, i) }""",
    "pool unevenly": f"""g ({IMAGE}) => (float[n,3,a,b] y) {{
        y = AveragePool<kernel_shape=[3,3], pads=[0,1,2,1]>(x) }}""",
    "rarer numbers": """g (float[n,4] x) => (float[n,4] y) {
        a = Atan(x) b = Sinh(a) c = Asinh(b) d = ThresholdedRelu<alpha = 0.2>(c) e = Shrink(d)
        f = Hardmax(x) g = Mean(e, f) y = Swish(g) }""",
    "sums so far": """g (float[n,5] x) => (float[n,5] y) <int64 a = {1}> {
        y = CumSum<exclusive = 1, reverse = 1>(x, a) }""",
    "largest": """g (float[n,9] x) => (float[n,3] y) <int64[1] k = {3}> { y, i = TopK<axis = 1>(x, k) }""",
    "one hot": """g (int64[n,3] x) => (float[n,3,5] y) <int64 d = {5}, float[2] v = {0., 2.}> {
        y = OneHot(x, d, v) }""",
    "norms": """g (float[n,4,5] x) => (float[n,4,5] y)
        <float[4] s = {1.,2.,3.,4.}, float[4] b = {0.,1.,2.,3.}, float[5] t = {1.,2.,3.,4.,5.}> {
        a = GroupNormalization<num_groups = 2>(x, s, b) c = RMSNormalization(x, t) d = LpNormalization(x)
        e = Add(a, c) y = Add(e, d) }""",
    "weight stored as integers": """g (float[n,2] x) => (float[n,3] y)
        <int8[2,3] q = {1,2,3,4,5,6}, float[3] s = {0.5,1.,2.}> { w = DequantizeLinear(q, s) y = MatMul(x, w) }""",
    "two outputs": "g (float[n,4] x) => (float[n,4] y, float[n,4] z) { y = Relu(x) z = Neg(y) }",
    "two inputs": "g (float[n,4] a, float[n,4] b) => (float[n,4] y) { y = Mul(a, b) }",
}
GRAPHS = {name: text.replace("_r,", ",") for name, text in GRAPHS.items()}
GRAPHS["resize by matrices"] = GRAPHS["resize by matrices"].replace(
    "<int64[4] z", "<int64[1] o = {1}, int64[1] p = {4}, int64[4] z"
)
OPSETS = {"scores": 24, "rarer numbers": 24, "norms": 24}
GRAPHS["split"] = GRAPHS["split"].replace("<int64[3] p", "<int64[1] _o = {1}, int64[1] _p = {3}, int64[3] p")


@pytest.mark.parametrize("operator", UNARY)
def test_operators_of_one_input_agree_with_onnxruntime(operator: str, write_onnx) -> None:
    path = write_onnx(f"g (float[n,4] x) => (float[a,b] y) {{ y = {operator}(x) }}")
    description = inspect(path)
    assert description.parity.max_abs_output > 0
    # It puts the batch last.
    assert description.outputs[0].shape == ((4, "batch") if operator == "Transpose" else ("batch", 4))


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_agree_with_onnxruntime(name: str, write_onnx) -> None:
    description = inspect(write_onnx(GRAPHS[name], opset=OPSETS.get(name, 20)))
    assert description.parity.samples == 12


@pytest.mark.parametrize(
    "text",
    [
        "g (float[n,3] x) => (float[n,3] y) { y = Softmax(x) }",
        "g (float[n,3,4] x) => (float[n,3,4] y) { y = Softmax<axis = 1>(x) }",
        "g (float[n,3,4] x) => (float[n,4] y) { y = ReduceMean<axes = [1], keepdims = 0>(x) }",
        "g (float[n,3,4] x) => (float[n,1,4] y) { y = Slice<starts = [1], ends = [2], axes = [1]>(x) }",
        "g (float[n,4] x) => (float[n,4] y) { y = Clip<min = -0.5, max = 0.25>(x) }",
        "g (float[n,1,4] x) => (float[n,4] y) { y = Squeeze<axes = [1]>(x) }",
        "g (float[n,4] x) => (float[n,6] y) { y = Pad<pads = [0, 1, 0, 1], value = 2.0>(x) }",
    ],
)
def test_old_opsets_keep_their_own_rules(text: str, write_onnx) -> None:
    assert inspect(write_onnx(text, opset=9)).opset == 9


class TestLayers:
    def test_convolutions(self, write_onnx) -> None:
        text = """g (float[n,4,9,8] x) => (float[n,6,a,b] y) {
            h = Conv<pads=[1,0,1,0], strides=[2,1], group=2>(x, c1__weight, c1__bias)
            h2 = Conv<auto_pad="SAME_LOWER">(h, c2__weight) y = Relu(h2) }"""
        weights = {
            "c1__weight": torch.randn(6, 2, 3, 3),
            "c1__bias": torch.randn(6),
            "c2__weight": torch.randn(6, 6, 4, 4),
        }
        description = inspect(write_onnx(text, **weights))
        assert [(layer.name, layer.kind, layer.groups) for layer in description.layers] == [
            ("c1", "conv2d", 2),
            ("c2", "conv2d", 1),
        ]

    def test_transposed_weights_become_linear_layers(self, write_onnx) -> None:
        text = """g (float[n,5,4] x) => (float[n,5,3] y) {
            a = MatMul(x, val_1) b = Add(a, att__out__bias) r = Relu(b) y = MatMul(r, val_2) }"""
        path = write_onnx(text, val_1=torch.randn(4, 6), att__out__bias=torch.randn(6), val_2=torch.randn(6, 3))
        layers = inspect(path).layers
        assert [(layer.name, layer.kind, layer.weight_shape) for layer in layers] == [
            ("att.out", "linear", (6, 4)),
            ("linear_1", "linear", (3, 6)),
        ]
        assert layers[0].parameters == 30

    def test_gemm_with_every_attribute(self, write_onnx) -> None:
        text = """g (float[n,4] x) => (float[n,3] y) {
            h = Gemm<transB=1>(x, fc1_w, fc1_b) r = Tanh(h) y = Gemm<alpha=0.5, beta=2.0>(r, fc2_w, fc2_b) }"""
        weights = {
            "fc1_w": torch.randn(5, 4),
            "fc1_b": torch.randn(5),
            "fc2_w": torch.randn(5, 3),
            "fc2_b": torch.randn(3),
        }
        assert {layer.name for layer in inspect(write_onnx(text, **weights)).layers} == {"fc1", "fc2"}

    def test_norms(self, write_onnx) -> None:
        text = """g (float[n,4,6] x) => (float[n,4,6] y) {
            a = BatchNormalization(x, bn__weight, bn__bias, bn__running_mean, bn__running_var)
            b = LayerNormalization(a, ln__weight, ln__bias) y = InstanceNormalization(b, i__weight, i__bias) }"""
        weights = {
            "bn__weight": torch.rand(4), "bn__bias": torch.randn(4), "bn__running_mean": torch.randn(4),
            "bn__running_var": torch.rand(4) + 0.5, "ln__weight": torch.rand(6), "ln__bias": torch.randn(6),
            "i__weight": torch.rand(4), "i__bias": torch.randn(4),
        }  # fmt: skip
        description = inspect(write_onnx(text, **weights))
        assert [(layer.name, layer.kind) for layer in description.layers] == [
            ("bn", "batch_norm"),
            ("ln", "layer_norm"),
            ("i", "instance_norm"),
        ]
        assert description.parameters == 28

    def test_an_embedding_tied_to_the_head_stays_one_weight(self, write_onnx) -> None:
        text = """g (int64[n,3] x) => (float[n,3,7] y) {
            e = Gather(emb__weight, x) t = Transpose<perm = [1, 0]>(emb__weight) y = MatMul(e, t) }"""
        path = write_onnx(text, emb__weight=torch.randn(7, 4))
        layers = inspect(path).layers
        assert [(layer.kind, layer.tied_to) for layer in layers] == [("embedding", None), ("linear", "emb")]
        assert len(list(read(path).graph.parameters())) == 1

    def test_names_from_the_nodes_of_older_exporters(self, write_onnx) -> None:
        path = write_onnx("g (float[n,4] x) => (float[n,3] y) { y = MatMul(x, W) }", W=torch.randn(4, 3))
        model = onnx.load(path)
        model.graph.node[0].name = "/encoder/encoder.0/proj/MatMul"
        model.graph.node[0].input[1] = model.graph.initializer[0].name = "onnx::MatMul_12"
        path.write_bytes(model.SerializeToString())
        assert inspect(path).layers[0].name == "encoder.0.proj"

    def test_a_table_of_positions_is_trained_and_a_mask_is_not(self, write_onnx) -> None:
        text = "g (float[n,4] x) => (float[n,4] y) { a = Add(x, pos) y = Mul(a, mask) }"
        network = read(write_onnx(text, pos=torch.randn(1, 4), mask=torch.ones(1, 4)))
        assert [name for name, _ in network.graph.named_parameters()] == ["pos"]

    def test_half_precision_is_computed_in_fp32(self, write_onnx) -> None:
        text = "g (float16[n,4] x) => (float16[n,3] y) { y = Gemm<transB=1>(x, fc__weight) }"
        description = inspect(write_onnx(text, fc__weight=torch.randn(3, 4).half()))
        assert (description.dtype, description.inputs[0].dtype) == ("float16", "float16")
        assert description.warnings

    def test_user_metadata_is_kept_and_traces_are_not(self, write_onnx) -> None:
        path = write_onnx("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }")
        model = onnx.load(path)
        onnx.helper.set_model_props(model, {"classes": "cat,dog", "pkg.torch.export.graph": "/home/me/net.py"})
        path.write_bytes(model.SerializeToString())
        assert read(path).metadata == {"classes": "cat,dog"}


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("g (float[n,4] x) => (float[n,4] y) { [late] y = Resize(x) }", "late"),
        ("g (float[n,2] x, int64[2] s) => (float[a,b] y) { [shape] y = Reshape(x, s) }", "shape"),
        ("g (float[n,4] x) => (float[n,5] y) <float[5] c = {1.,2.,3.,4.,5.}> { [sum] y = Add(x, c) }", "sum"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_node(text: str, node: str, write_onnx) -> None:
    with pytest.raises(ModelpressError) as raised:
        read(write_onnx(text))
    assert raised.value.code in ("unsupported_operator", "unsupported_graph")
    assert raised.value.node == node
