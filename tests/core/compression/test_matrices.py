"""Layers as products of matrices: rows of the input times the matrix are the layer's output."""

import pytest
import torch
from torch import Tensor, nn

from core.compression.matrices import Product, as_matrix, as_weight, count_rows, output_rows, take_rows

LAYERS: dict[str, tuple[Product, tuple[int, ...]]] = {
    "linear": (nn.Linear(5, 3), (2, 4, 5)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (3, 4, 11)),
    "conv2d": (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2)), (2, 4, 7, 6)),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 5, 5)),
    "same": (nn.Conv2d(3, 2, (4, 3), padding="same"), (2, 3, 6, 5)),
    "conv3d": (nn.Conv3d(2, 3, 2, stride=2, padding=1), (2, 2, 4, 5, 3)),
    "transposed1d": (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (2, 4, 5)),
    "transposed2d": (nn.ConvTranspose2d(3, 2, (3, 2), stride=(1, 3), padding=(2, 1), dilation=(2, 1)), (2, 3, 4, 5)),
    "transposed_cropped": (nn.ConvTranspose2d(2, 2, 2, stride=2, padding=2), (1, 2, 4, 4)),
}


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel lengths")
@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_the_matrix_are_the_output(name: str) -> None:
    layer, shape = LAYERS[name]
    torch.manual_seed(0)
    value = torch.randn(shape)
    with torch.no_grad():
        output = layer(value)
        if layer.bias is not None:
            bias = layer.bias if isinstance(layer, nn.Linear) else layer.bias.reshape(-1, *[1] * (output.dim() - 2))
            output = output - bias
    rows = torch.arange(count_rows(layer, value))
    product = take_rows(layer, value) @ as_matrix(layer, layer.weight.detach()).mT
    assert torch.allclose(product, output_rows(layer, output, rows), atol=1e-5)
    few = rows[::3]
    assert torch.equal(take_rows(layer, value, few), take_rows(layer, value)[:, few])


@pytest.mark.parametrize("name", LAYERS)
def test_the_matrix_becomes_the_weight_again(name: str) -> None:
    layer, _ = LAYERS[name]
    numbers: Tensor = torch.arange(layer.weight.numel()).float().reshape(layer.weight.shape)
    assert torch.equal(as_weight(layer, as_matrix(layer, numbers)), numbers)
