"""Calls that multiply or combine several tensors: pointwise with broadcasting, matrix products, attention, einsum."""

from collections.abc import Sequence

from core.network.surgery.call import Call, Site, Size, Value
from core.network.surgery.dimensions import Axis, Dimension, Dims, Misfit, Mul, size


def combine_pointwise(call: Call) -> Value:
    """All tensors that go in, aligned at the right."""
    arguments = (call.ledger.value_of(each) for each in (*call.node.args, *call.node.kwargs.values()))
    return broadcast(call, [value for value in arguments if isinstance(value, list)])


def broadcast(call: Call, tensors: Sequence[Dims]) -> Dims:
    """The dimensions of tensors that meet; of size 1 they give way to others."""
    out: Dims = []
    for place in range(1, max(map(len, tensors)) + 1):
        here = [dims[-place] for dims in tensors if len(dims) >= place]
        wide = [e for e in here if size(e) != 1] or here[:1]
        call.tie(wide[0], *wide[1:])
        out.insert(0, wide[0])
    return out


def multiply_matrices(call: Call) -> Value:
    """As `torch.matmul`: (…, n, k) by (…, k, m)."""
    return _multiply(call, call.dims("self"), call.dims("other", "mat2", "vec", "tensor"))


def multiply_and_add(call: Call) -> Value:
    """`addmm` and `baddbmm`."""
    product = _multiply(call, call.dims("mat1", "batch1"), call.dims("mat2", "batch2"))
    return broadcast(call, [product, call.dims("self")])


def _multiply(call: Call, a: Dims, b: Dims) -> Dims:
    if len(b) == 1:
        call.tie(a[-1], b[0])
        return a[:-1]
    call.tie(a[-1], b[-2])
    if len(a) == 1:
        return b[:-2] + b[-1:]
    before = broadcast(call, [a[:-2], b[:-2]]) if len(a) + len(b) > 4 else []
    return [*before, a[-2], b[-1]]


def attend(call: Call) -> Value:
    """Scaled dot-product attention; the default scale follows the head size: the one trained with is written down."""
    query, key, value = call.dims("query"), call.dims("key"), call.dims("value")
    call.tie(query[-1], key[-1])
    call.tie(key[-2], value[-2])
    call.freeze([key[-2]], "softmax runs over it")
    if call.get("is_causal"):
        call.freeze([query[-2]], "order matters")
    if call.get("enable_gqa") and size(query[-3]) != size(key[-3]):
        call.tie(key[-3], value[-3])
        call.tie(query[-3], Mul((key[-3], Axis(size(query[-3]) // size(key[-3])))))
        before = query[:-2]
    else:
        before = broadcast(call, [query[:-2], key[:-2], value[:-2]])
    mask = call.maybe("attn_mask")
    if mask is not None:
        broadcast(call, [mask, [*before, query[-2], key[-2]]])
    if call.get("scale") is None:
        scale = size(query[-1]) ** -0.5
        call.edit([query[-1]], lambda site, _: site.set_argument("scale", scale))
    return [*before, query[-2], value[-1]]


def sum_letters(call: Call) -> Value:
    """`einsum`: a letter is one index wherever it stands."""
    equation = str(call.get("equation")).replace(" ", "")
    if "." in equation or "->" not in equation:
        raise Misfit
    terms, result = equation.split("->")
    letters: dict[str, Dimension] = {}
    for term, dims in zip(terms.split(","), call.several("tensors"), strict=True):
        for letter, e in zip(term, dims, strict=True):
            known = letters.get(letter)
            if known is None or size(known) == 1:
                letters[letter] = e
            elif size(e) != 1:
                call.tie(known, e)
    return [letters[letter] for letter in result]


def repeat_interleaved(call: Call) -> Value:
    """Each position several times, one behind the other."""
    x, repeats = list(call.source()), call.integer("repeats")
    if call.get("dim") is None:
        raise Misfit
    place = call.axis("dim", len(x))
    copies = Axis(repeats)
    x[place] = Mul((x[place], copies))

    def change(site: Site, size_: Size) -> None:
        site.set_argument("repeats", size_(copies))

    call.edit([copies], change)
    return x
