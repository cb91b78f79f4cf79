"""Folding: exact on a copy, and left alone where it would be wrong."""

import torch
from torch import Tensor, nn

from core.network.fold import fold_batch_norm
from core.network.inspect import read


def norms(graph: nn.Module) -> list[str]:
    return [name for name, layer in graph.named_modules() if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))]


def test_folding_keeps_the_outputs_and_the_original(residual, save_pt2) -> None:
    module, example = residual
    network = read(save_pt2(module, example))
    folded = fold_batch_norm(network)
    assert (norms(network.graph), norms(folded.graph)) == (["stem.1"], [])
    with torch.no_grad():
        torch.testing.assert_close(folded.graph(example), network.graph(example), rtol=1e-4, atol=1e-5)
    assert folded.graph.get_submodule("stem.0").bias is not None
    assert network.graph.get_submodule("stem.0").bias is None


def test_conv1d_and_linear_are_folded(series, save_pt2) -> None:
    module, example = series
    network = read(save_pt2(module, example))
    folded = fold_batch_norm(network)
    assert norms(folded.graph) == []
    with torch.no_grad():
        for ours, theirs in zip(folded.graph(example), module.eval()(example), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


class Apart(nn.Module):
    """A batch norm on tokens, one whose input is read twice, and one after a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 5)
        self.tokens = nn.BatchNorm1d(5)
        self.fc2 = nn.Linear(5, 5)
        self.read_twice = nn.BatchNorm1d(5)
        self.twice = nn.Linear(5, 5)
        self.after = nn.BatchNorm1d(5)
        for norm in (self.tokens, self.read_twice, self.after):
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.tokens(self.fc(x)).mean(1)
        once = self.fc2(pooled)
        both = once + self.read_twice(once)
        return self.after(self.twice(self.twice(both)))


def test_a_norm_stays_where_folding_would_be_wrong(save_pt2) -> None:
    module = Apart()
    network = read(save_pt2(module, torch.randn(2, 5, 5)))
    folded = fold_batch_norm(network)
    assert norms(folded.graph) == ["tokens", "read_twice", "after"]
    inputs = torch.randn(3, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(folded.graph(inputs), module.eval()(inputs), rtol=1e-4, atol=1e-5)
