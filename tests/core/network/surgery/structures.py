"""Networks of every structure that surgery must understand, small and with loud random weights.

Default initialisation hides mistakes: biases and running means of zero, scales of one, and attention that is nearly
uniform give equal outputs whatever is mixed up.
"""

import math
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from core.network.inspect import read
from core.network.network import Network

Made = tuple[nn.Module, tuple[Tensor, ...]]
IMAGE = (3, 3, 32, 32)


def normed(
    source: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    conv = nn.Conv2d(source, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), act())


def shout(module: nn.Module) -> None:
    """Random numbers everywhere, large enough that a wrong alignment shows in the outputs."""
    generator = torch.Generator().manual_seed(1)
    statistics = [(name, buffer) for name, buffer in module.named_buffers() if "running" in name]
    for name, tensor in (*module.named_parameters(), *statistics):
        drawn = torch.randn(tensor.shape, generator=generator)
        is_scale = tensor.dim() <= 1 and "weight" in name
        if "running_var" in name or is_scale:
            tensor.data = drawn.abs() * 0.5 + 0.5
        elif tensor.dim() > 1 and tensor.shape[0] > 1 and "emb" not in name and "wte" not in name:
            tensor.data = drawn * 1.5 / math.sqrt(tensor[0].numel())
        else:
            tensor.data = drawn * 0.7


def network_of(made: Made) -> Network:
    """The canonical network of a module, as reading its exported file gives it."""
    module, inputs = made
    shout(module.eval())
    shapes = tuple({0: Dim("batch", min=1, max=64)} for _ in inputs)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pt2"
        torch.export.save(program, path)
        return read(path)


class Plain(nn.Module):
    """Convolutions, then everything flattened into linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(normed(3, 16), nn.MaxPool2d(2), normed(16, 32), nn.AdaptiveAvgPool2d(4))
        self.hidden = nn.Linear(32 * 16, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(self.body(x).flatten(1))))


class ResidualBlock(nn.Module):
    def __init__(self, source: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = normed(source, out, 3, stride)
        self.second = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1), nn.BatchNorm2d(out))
        self.shortcut = nn.Conv2d(source, out, 1, stride) if source != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


class Residual(nn.Module):
    """Two blocks that can go, with a projection between them."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [ResidualBlock(16, 16, 1), ResidualBlock(16, 32, 2), ResidualBlock(32, 32, 1)]
        self.body = nn.Sequential(normed(3, 16), *blocks)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Dense(nn.Module):
    """Every layer reads what all before it made."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(16 + 8 * i), nn.ReLU(), nn.Conv2d(16 + 8 * i, 8, 3, 1, 1)) for i in range(4)
        )
        self.reduce = nn.Sequential(nn.BatchNorm2d(48), nn.ReLU(), nn.Conv2d(48, 24, 1), nn.AvgPool2d(2))
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(self.reduce(x).mean((2, 3)))


class Depthwise(nn.Module):
    """Depthwise convolutions; the second makes two channels of each."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            normed(3, 16), normed(16, 16, groups=16), normed(16, 32, 1), normed(32, 64, 3, 2, 32), normed(64, 64, 1)
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Grouped(nn.Module):
    """Grouped convolutions around a sum, and a group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = normed(3, 32)
        self.same = normed(32, 32, groups=4)
        self.wider = normed(32, 64, 3, 1, 4)
        self.norm = nn.GroupNorm(8, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.same(x)
        return self.head(self.norm(self.wider(x)).mean((2, 3)))


class Squeeze(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, hidden, 1)
        self.second = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.second(F.silu(self.first(F.adaptive_avg_pool2d(x, 1)))))


class Inverted(nn.Module):
    """An inverted residual block with squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = normed(3, 16)
        self.expand = normed(16, 64, 1, act=nn.SiLU)
        self.depth = normed(64, 64, groups=64, act=nn.Hardswish)
        self.squeeze = Squeeze(64, 8)
        self.project = nn.Sequential(nn.Conv2d(64, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.project(self.squeeze(self.depth(self.expand(x))))
        return self.head(x.mean((2, 3)))


class Excited(nn.Module):
    """Squeeze and excitation on the branch of a residual block, by linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = normed(3, 16), normed(16, 24), normed(24, 16, act=nn.Identity)
        self.squeeze, self.excite = nn.Linear(16, 4), nn.Linear(4, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.second(self.first(x))
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))
        return self.head(F.relu(x + y * scale[:, :, None, None]).mean((2, 3)))


class Transposed(nn.Module):
    """A decoder: a vector becomes an image by transposed convolutions, one of them in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.grow = nn.Linear(12, 32 * 16)
        self.up1, self.norm = nn.ConvTranspose2d(32, 24, 4, 2, 1), nn.BatchNorm2d(24)
        self.up2 = nn.ConvTranspose2d(24, 16, 3, 2, 1, output_padding=1, groups=2)
        self.out = nn.ConvTranspose2d(16, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.grow(x)).view(-1, 32, 4, 4)
        x = F.relu(self.norm(self.up1(x)))
        return torch.tanh(self.out(F.leaky_relu(self.up2(x))))


class Sequence(nn.Module):
    """A vector becomes a sequence: its steps are rows of a weight, and none of them can go."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.cell, self.head = nn.Linear(8, 6 * 16), nn.GRU(16, 24, batch_first=True), nn.Linear(24, 5)
        self.key = nn.Linear(24, 20)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.cell(self.steps(x).view(-1, 6, 16))
        y = self.key(x)
        return self.head(F.scaled_dot_product_attention(y, y, x, is_causal=True).mean(1))


class Unet(nn.Module):
    """Transposed convolutions, and long shortcuts that are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = normed(3, 16), normed(16, 32), normed(32, 64)
        self.up1, self.join1 = nn.ConvTranspose2d(64, 32, 2, 2), normed(64, 32)
        self.up2, self.join2 = nn.ConvTranspose2d(32, 16, 2, 2), normed(32, 16)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        c = self.c(F.max_pool2d(b, 2))
        x = self.join1(torch.cat([self.up1(c), b], 1))
        return self.out(self.join2(torch.cat([self.up2(x), a], 1)))


def shuffle(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class SplitShuffle(nn.Module):
    """Split, two branches, concatenation, channel shuffle, and a split in three."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = normed(3, 32)
        self.branch = nn.Sequential(normed(16, 16, 1), normed(16, 16, groups=16))
        self.point = normed(32, 48, 1)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        kept, other = self.stem(x).chunk(2, 1)
        a, b, c = torch.split(self.point(shuffle(torch.cat([kept, self.branch(other)], 1))), [16, 16, 16], 1)
        return self.head(torch.cat([a * torch.sigmoid(b), c, c], 1).mean((2, 3)))


class Shuffle2(nn.Module):
    """Two ShuffleNetV2 units: the half that passes is shuffled again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = normed(3, 32)
        self.units = nn.ModuleList(
            nn.Sequential(normed(16, 16, 1), normed(16, 16, groups=16), normed(16, 16, 1)) for _ in range(2)
        )
        self.point = normed(32, 48, 1)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for unit in self.units:
            kept, other = x.chunk(2, 1)
            x = shuffle(torch.cat([kept, unit(other)], 1))
        return self.head(self.point(x).mean((2, 3)))


class RootMeanSquare(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.w


class GroupedQuery(nn.Module):
    """Eight query heads on two of keys and values, rotary tables as buffers, gate and up in one matrix."""

    def __init__(self, width: int = 64, heads: int = 8, kept: int = 2, length: int = 16) -> None:
        super().__init__()
        self.heads, self.kept, self.each = heads, kept, width // heads
        self.emb = nn.Embedding(100, width)
        self.n1, self.n2 = RootMeanSquare(width), RootMeanSquare(width)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * kept * self.each, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 256, bias=False)
        self.down = nn.Linear(128, width, bias=False)
        self.out = nn.Linear(width, 100, bias=False)
        steps = 1 / (100 ** (torch.arange(0, self.each, 2) / self.each))
        angles = torch.outer(torch.arange(length).float(), steps)
        self.register_buffer("cos", torch.cat([angles, angles], -1).cos())
        self.register_buffer("sin", torch.cat([angles, angles], -1).sin())

    def rotate(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return x * self.cos + torch.cat([-x[..., half:], x[..., :half]], -1) * self.sin

    def forward(self, ids: Tensor) -> Tensor:
        x = self.emb(ids)
        batch, length, _ = x.shape
        y = self.n1(x)
        q = self.rotate(self.q(y).view(batch, length, self.heads, self.each).transpose(1, 2))
        k, v = (z.view(batch, length, self.kept, self.each).transpose(1, 2) for z in self.kv(y).chunk(2, -1))
        k, times = self.rotate(k), self.heads // self.kept
        shape = (batch, self.kept, times, length, self.each)
        k, v = (z[:, :, None].expand(*shape).reshape(batch, self.heads, length, self.each) for z in (k, v))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(seen.transpose(1, 2).reshape(batch, length, -1))
        gate, up = self.gate_up(self.n2(x)).chunk(2, -1)
        return self.out(x + self.down(F.silu(gate) * up))


class LongMemory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(100, 32)
        self.cell = nn.LSTM(32, 48, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(96, 5)

    def forward(self, ids: Tensor) -> Tensor:
        made, _ = self.cell(self.emb(ids))
        return self.head(made[:, -1])


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(8, 32, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0].mean(1))


class TwoHeads(nn.Module):
    """Two outputs, one of them an image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(normed(3, 16), normed(16, 32))
        self.a = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 10))
        self.b = nn.Sequential(nn.Conv2d(32, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 4, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(x)
        return self.a(x.mean((2, 3))), self.b(x)


class Bare(nn.Module):
    """Parameters without layers: biases, layer scale, tokens, matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4, bias=False)
        self.b, self.g = nn.Parameter(torch.randn(16, 1, 1)), nn.Parameter(torch.randn(16))
        self.t, self.pos = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 64, 16))
        self.w, self.w2 = nn.Parameter(torch.randn(16, 32)), nn.Parameter(torch.randn(32, 16))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = (self.patch(x) + self.b).flatten(2).transpose(1, 2) + self.pos + self.t
        x = x + self.g * (F.gelu(x @ self.w) @ self.w2)
        return self.head(x.mean(1))


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = normed(3, 16), nn.Conv2d(16, 64, 3, 1, 1), normed(16, 16)
        self.d = nn.Conv2d(16, 12, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.d(self.c(F.pixel_shuffle(self.b(self.a(x)), 2))), 2)


class Einsum(nn.Module):
    """Queries, keys and values in one matrix, taken apart by a view, multiplied by einsum."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.i, self.n = nn.Linear(8, width), nn.LayerNorm(width)
        self.qkv, self.o, self.c = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        batch, length, width = x.shape
        q, k, v = self.qkv(self.n(x)).view(batch, length, 3, self.heads, self.each).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (torch.einsum("bhid,bhjd->bhij", q, k) * self.each**-0.5).softmax(-1)
        y = torch.einsum("bhij,bhjd->bihd", weights, v).reshape(batch, length, width)
        return self.c((x + self.o(y)).mean(1))


class PaddedShortcut(nn.Module):
    """A CIFAR ResNet's shortcut without weights: channels are padded with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = normed(3, 16), normed(16, 32, 3, 2), normed(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = self.b(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
        return self.head((x + self.c(x)).mean((2, 3)))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 32, 8, 8), nn.LayerNorm(32)
        self.t1, self.t2 = nn.Linear(16, 24), nn.Linear(24, 16)
        self.c1, self.c2, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.t2(F.gelu(self.t1(self.norm(x).transpose(1, 2)))).transpose(1, 2)
        return self.head((x + self.c2(F.gelu(self.c1(x)))).mean(1))


class TorchAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i = nn.Linear(8, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.i(x)).mean(1))


class BatchHeads(nn.Module):
    """Heads folded into the batch: their number hides in a multiplication of sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(8, 32), nn.Linear(32, 5)
        self.q, self.k, self.v = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        batch, length, _ = x.shape
        q, k, v = (
            layer(x).view(batch, length, 4, 8).transpose(1, 2).reshape(batch * 4, length, 8)
            for layer in (self.q, self.k, self.v)
        )
        y = torch.bmm(torch.bmm(q, k.transpose(1, 2)).div(8**0.5).softmax(-1), v)
        return self.o(y.view(batch, 4, length, 8).transpose(1, 2).reshape(batch, length, 32).mean(1))


class Volume(nn.Module):
    """Three dimensions of space, instance norm with and without weights, a grouped transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n1 = nn.Conv3d(2, 8, 3, padding=1), nn.InstanceNorm3d(8, affine=True)
        self.b, self.n2 = nn.Conv3d(8, 12, 3, stride=2, padding=1, groups=2), nn.InstanceNorm3d(12)
        self.up = nn.ConvTranspose3d(12, 6, 2, 2, groups=3)
        self.slope, self.out = nn.PReLU(6), nn.Conv3d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.n2(self.b(F.relu(self.n1(self.a(x))))))
        return self.out(self.slope(self.up(x)))


class Halves(nn.Module):
    """Gated linear units, two tied layers, parts read by slices."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.wide, self.mix = nn.Linear(6, 24), nn.Linear(24, 48), nn.Linear(24, 24)
        self.other = nn.Linear(24, 24)
        self.other.weight = self.mix.weight
        self.o = nn.Linear(18, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.wide(torch.tanh(self.i(x))), -1)
        x = torch.tanh(self.mix(x)) + torch.relu(self.other(x))
        return self.o(torch.cat([x[:, :10], x.narrow(1, 16, 8)], 1))


class Tied(nn.Module):
    """A language model whose head shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.mix = nn.Embedding(50, 24), nn.Linear(24, 40)
        self.back, self.norm = nn.Linear(40, 24), nn.RMSNorm(24)
        self.head = nn.Linear(24, 50, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.emb(ids)
        return self.head(self.norm(x + self.back(F.gelu(self.mix(x)))))


class Relative(nn.Module):
    """A table of positions with layers of its own, which are run once whatever the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, 12))
        self.i, self.place, self.deep = nn.Linear(8, 20), nn.Linear(12, 16), nn.Linear(16, 20)
        self.o = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        places = self.deep(torch.relu(self.place(self.table)))
        return self.o((self.i(x) @ places.transpose(0, 1)).softmax(-1).mean(1))


def _image(kind: Callable[[], nn.Module]) -> Callable[[], Made]:
    return lambda: (kind(), (torch.randn(IMAGE),))


def _numbers(kind: Callable[[], nn.Module], *shape: int) -> Callable[[], Made]:
    return lambda: (kind(), (torch.randn(3, *shape),))


def _ids(kind: Callable[[], nn.Module], length: int, most: int = 100) -> Callable[[], Made]:
    return lambda: (kind(), (torch.randint(0, most, (3, length)),))


STRUCTURES: dict[str, Callable[[], Made]] = {
    "plain": _image(Plain),
    "residual": _image(Residual),
    "dense": _image(Dense),
    "depthwise": _image(Depthwise),
    "grouped": _image(Grouped),
    "inverted": _image(Inverted),
    "excited": _image(Excited),
    "unet": _image(Unet),
    "transposed": _numbers(Transposed, 12),
    "split_shuffle": _image(SplitShuffle),
    "shuffle2": _image(Shuffle2),
    "two_heads": _image(TwoHeads),
    "bare": _image(Bare),
    "pixels": _image(Pixels),
    "padded_shortcut": _image(PaddedShortcut),
    "mixer": _image(Mixer),
    "grouped_query": _ids(GroupedQuery, 16),
    "lstm": _ids(LongMemory, 12),
    "tied": _ids(Tied, 7, 50),
    "gru": _numbers(Gated, 9, 8),
    "sequence": _numbers(Sequence, 8),
    "torch_attention": _numbers(TorchAttention, 9, 8),
    "heads_in_batch": _numbers(BatchHeads, 9, 8),
    "einsum": _numbers(Einsum, 12, 8),
    "volume": _numbers(Volume, 2, 8, 8, 8),
    "relative": _numbers(Relative, 9, 8),
    "halves": _numbers(Halves, 6),
}
