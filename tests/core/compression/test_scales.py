import torch
from torch import nn

from core.compression.quantize.scales import scale_axis
from core.network.encodings import symmetric_grid


def test_a_product_has_one_scale_unless_its_channels_differ_in_size() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 32)
    assert scale_axis(layer, symmetric_grid(8)) is None
    layer.weight.data[3] = 0.0
    assert scale_axis(layer, symmetric_grid(8)) is None
    layer.weight.data[5] *= 0.01
    assert scale_axis(layer, symmetric_grid(8)) == 0


def test_one_outlier_does_not_cost_all_others_their_bits() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 32)
    layer.weight.data[0, 0] = 5.0
    assert scale_axis(layer, symmetric_grid(8)) == 0


def test_a_convolution_has_a_scale_for_each_channel() -> None:
    assert scale_axis(nn.Conv2d(4, 4, 3), symmetric_grid(8)) == 0
