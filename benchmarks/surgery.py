"""How long it takes to find what can be cut, to count costs at other widths, and to cut, on networks of usual size.

    python -m benchmarks.surgery

The networks have random weights. Costs at drawn widths are compared with the description of the network that is cut
to them; the cut network is run at another batch than the analysis saw.
"""

import argparse
import random
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import transformers
from torch import Tensor, nn

from core.network.capture import capture
from core.network.describe import describe
from core.network.inspect import read
from core.network.network import Network
from core.network.surgery import Channels, find_blocks, thin

Result = TypeVar("Result")


class Logits(nn.Module):
    """A classifier of `transformers` as a module from one tensor to one tensor."""

    def __init__(self, module: nn.Module, argument: str) -> None:
        super().__init__()
        self.module, self.argument = module, argument

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        return self.module(**{self.argument: x}).logits


def networks() -> dict[str, Callable[[], tuple[nn.Module, Tensor]]]:
    """By name, what makes a module and an example."""
    image, text = torch.randn(2, 3, 224, 224), torch.randint(0, 1000, (2, 128))
    hf = transformers
    return {
        "ResNet-50": lambda: (Logits(hf.ResNetForImageClassification(hf.ResNetConfig()), "pixel_values"), image),
        "ViT-base": lambda: (Logits(hf.ViTForImageClassification(hf.ViTConfig()), "pixel_values"), image),
        "BERT-base": lambda: (Logits(hf.BertForSequenceClassification(hf.BertConfig()), "input_ids"), text),
        "ConvNeXtV2-tiny": lambda: (
            Logits(hf.ConvNextV2ForImageClassification(hf.ConvNextV2Config()), "pixel_values"),
            image,
        ),
    }


def main() -> None:
    """One row a network."""
    argparse.ArgumentParser(description="Times of surgery.").parse_args()
    torch.set_num_threads(1)
    print("| network | nodes | groups | blocks | analysis s | costs ms | cut s | half as wide and deep: parameters |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, make in networks().items():
        module, example = make()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder) / "network.pt2"
            capture(module, example, path)
            del module
            print(row(name, read(path), example), flush=True)


def row(name: str, network: Network, example: Tensor) -> str:
    """The figures of one network; raises where the count and the cut network differ."""
    channels, analysis = timed(lambda: Channels(network))
    drawn = random.Random(0)
    draws = [{group: drawn.randint(1, group.size) for group in channels.groups} for _ in range(20)]
    costs, counting = timed(lambda: [channels.costs(widths) for widths in draws])
    keep = {group: range(width) for group, width in draws[-1].items()}
    cut, cutting = timed(lambda: channels.resize(keep))
    described = describe(cut)
    if (described.parameters, described.macs) != (costs[-1].parameters, costs[-1].macs):
        raise SystemExit(f"{name}: the cut network has other costs than were counted.")
    with torch.no_grad():
        cut.graph(torch.cat([example, example])[:3])
    student = describe(thin(network, width=0.5, depth=0.5)).parameters
    nodes, blocks = len(network.graph.graph.nodes), len(find_blocks(network))
    return (
        f"| {name} | {nodes} | {len(channels.groups)} | {blocks} | {analysis:.2f} | {1e3 * counting / len(draws):.1f} "
        f"| {cutting:.2f} | {describe(network).parameters:,} → {student:,} |"
    )


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """What a call gives, and the seconds that it takes."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()
