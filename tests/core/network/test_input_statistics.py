"""What a network tells of its inputs is what it was trained on."""

import pytest
import torch
from torch import Tensor, nn

from core.network.input_statistics import input_statistics
from core.network.inspect import read

MEAN, DEVIATION = torch.tensor([0.49, 0.48, 0.41]), torch.tensor([0.25, 0.24, 0.26])


def trained(layers: nn.Sequential, samples: Tensor) -> nn.Sequential:
    """With the running statistics of these samples."""
    for layer in layers.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        layers.train()(samples)
    return layers.eval()


@pytest.fixture
def pixels() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 3, 16, 16, generator=generator)
    return noise * DEVIATION[:, None, None] + MEAN[:, None, None]


class Normalised(nn.Module):
    """ImageNet's preparation inside of the network, by one value a channel or by numbers, then a layer without norm."""

    def __init__(self, *, single: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.single = single
        self.register_buffer("mean", MEAN[:, None, None])
        self.register_buffer("std", DEVIATION[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        if self.single:
            return self.conv(2.0 * (x / 255.0) - 1.0)
        return self.conv((x - self.mean) / self.std)


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_the_norm_after_the_first_convolution(save_pt2, pixels, scale) -> None:
    torch.manual_seed(0)
    layers = trained(nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()), pixels * scale)
    (found,) = input_statistics(read(save_pt2(layers, pixels[:2]))).values()
    torch.testing.assert_close(torch.tensor(found.mean), MEAN * scale, rtol=0.03, atol=0)
    assert found.deviation == pytest.approx([0.25 * scale], rel=0.05)
    assert found.source == "the first batch norm"


def test_a_norm_of_the_input_itself(save_pt2, pixels) -> None:
    layers = trained(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), pixels)
    (found,) = input_statistics(read(save_pt2(layers, pixels[:2]))).values()
    torch.testing.assert_close(torch.tensor(found.mean), MEAN, rtol=0.01, atol=0)
    torch.testing.assert_close(torch.tensor(found.deviation), DEVIATION, rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("single", "mean", "deviation"), [(False, MEAN.tolist(), DEVIATION.tolist()), (True, [127.5], [127.5])]
)
def test_constants_that_the_input_is_normalised_by(save_pt2, pixels, single, mean, deviation) -> None:
    (found,) = input_statistics(read(save_pt2(Normalised(single=single), pixels[:2]))).values()
    assert found.mean == pytest.approx(mean)
    assert found.deviation == pytest.approx(deviation)


def test_what_has_seen_nothing_tells_nothing(save_pt2, pixels) -> None:
    for layers in (nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)), nn.Sequential(nn.Conv2d(3, 4, 3))):
        assert input_statistics(read(save_pt2(layers.eval(), pixels[:2]))) == {}
