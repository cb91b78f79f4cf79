"""`quantize.codebook`: the weights of a layer share a few values, chosen by optimal k-means."""

from collections.abc import Iterator, Mapping, Sequence
from typing import final

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from core.compression.candidates import Candidate
from core.compression.context import Context
from core.compression.curvature import diagonal_fisher
from core.compression.quantize.book_weighting import Weighting, choose_weightings, weigh_errors
from core.compression.quantize.few_values import Given, ValueQuantizer
from core.compression.quantize.kmeans import cluster
from core.compression.yardstick import input_batches
from core.errors import ModelpressError
from core.network.encodings import Codebook, Elementwise
from core.network.encodings.blocks import largest_group
from core.network.network import Network
from core.specs.codebook import CodebookQuantization


@final
class CodebookQuantizer(ValueQuantizer[CodebookQuantization]):
    """Han et al. 2016 (arXiv 1510.00149), with optimal books instead of Lloyd's from a linear start."""

    def weigh(
        self, network: Network, candidates: Sequence[Candidate], spec: CodebookQuantization, context: Context
    ) -> Mapping[str, Tensor]:
        """The diagonal of the Fisher information; raises `missing_data`."""
        if spec.weighting == "none":
            return {}
        dataset = context.needed_dataset()
        count = min(spec.samples, dataset.count("calibration"))
        if not count:
            raise ModelpressError("missing_data", "The data set has no calibration samples and none to draw them from.")

        def batches() -> Iterator[tuple[Tensor, ...]]:
            done = 0
            # One by one: the square of a sum of gradients is a noisier figure than the sum of their squares.
            for inputs in input_batches(network, dataset, "calibration", limit=count, batch=1):
                context.progress(0.2 * done / count, f"How much the answers depend on each weight: {done} of {count}")
                yield inputs
                done += inputs[0].shape[0]

        names = [each.name for each in candidates]
        return diagonal_fisher(network, batches(), names, task=dataset.task, seed=context.seed)

    def encode(self, given: Given, spec: CodebookQuantization) -> Codebook:
        """A book for the layer, or for each group of channels; what a mask leaves out has no say."""
        return make_codebook(given, spec, "smoothed" if given.importance is not None else "none")

    def choose(
        self,
        network: Network,
        encoded: Sequence[tuple[Given, Elementwise]],
        spec: CodebookQuantization,
        context: Context,
    ) -> tuple[dict[str, Elementwise], dict[str, JsonValue]]:
        """With a weighting: of several for each layer the one with the least loss, the others as they are chosen."""
        if spec.weighting == "none":
            return super().choose(network, encoded, spec, context)
        givens = [given for given, _ in encoded]
        return choose_weightings(network, givens, lambda given, kind: make_codebook(given, spec, kind), context)


def make_codebook(given: Given, spec: CodebookQuantization, weighting: Weighting) -> Codebook:
    """The best values of a weight where errors count by this weighting of its importance."""
    weight = given.candidate.weight
    groups = largest_group(weight.shape[0], spec.groups)
    numbers = weight.reshape(groups, -1)
    masks = [None] * groups if given.mask is None else list(given.mask.reshape(groups, -1))
    weighted = None if given.importance is None else weigh_errors(given.importance, weighting)
    shares = [None] * groups if weighted is None else list(weighted.reshape(groups, -1))
    books = [_book(*group, spec.values) for group in zip(numbers, masks, shares, strict=True)]
    most = max(len(book) for book in books)
    # Books of one weight have one length; the last value is said again where there are no more.
    full = torch.stack([torch.cat([book, book[-1:].expand(most - len(book))]) for book in books])
    return Codebook.of(weight, full if groups > 1 else full[0])


def _book(numbers: Tensor, mask: Tensor | None, importance: Tensor | None, values: int) -> Tensor:
    """The values for these numbers (n,), of which a mask may keep some, ascending; at least one."""
    if mask is not None:
        numbers, importance = numbers[mask], None if importance is None else importance[mask]
    if not len(numbers):
        return torch.zeros(1)
    weights = None if importance is None else importance.double().numpy()
    return torch.from_numpy(cluster(numbers.float().numpy(), values, weights).astype(np.float32))
