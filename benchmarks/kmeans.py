"""Values chosen for weights on a line: error against the optimum, and seconds, beside the exact `kmeans1d`.

    pip install --target peers kmeans1d
    PYTHONPATH=peers python -m benchmarks.kmeans --shared ../shared

Numbers: Gaussian, Laplace, uniform, outliers, duplicates, trained weights (the largest layers of the shared networks).
`kmeans1d` needs 20 s for 266,000 numbers and 256 values, so that of larger sets only the time is told unless `--all` is
given. Times are those of one thread of the CPU, ours medians of five calls; without `kmeans1d` only ours.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.compression.quantize.kmeans import cluster
from core.network.inspect import read

Numbers = NDArray[np.float32]
VALUES = (4, 16, 64, 256)
SMALL, LENET, LARGE = 26_000, 266_000, 1_000_000
RUNS = 5
# Numbers times values that kmeans1d is given unless all are asked for.
MOST = 10_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description="Optimal k-means on a line.")
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--all", action="store_true", help="compare the largest sets with kmeans1d too")
    options = parser.parse_args()
    peer = importlib.util.find_spec("kmeans1d") is not None
    print(
        "| numbers | n | values | ours, s | kmeans1d, s | error / least error |\n| --- | --- | --- | --- | --- | --- |"
    )
    for name, numbers, values in cases(options.shared):
        ours = statistics.median(seconds(lambda: cluster(numbers, values)) for _ in range(RUNS))  # noqa: B023  at once
        told = f"| {name} | {len(numbers):,} | {values} | {ours:.3f} |"
        if not peer or (len(numbers) * values > MOST and not options.all):
            print(f"{told} – | – |", flush=True)
            continue
        began = time.process_time()
        least, best = exact(numbers, values), time.process_time() - began
        print(f"{told} {best:.2f} | {error(numbers, cluster(numbers, values)) / least:.6f} |", flush=True)


def cases(shared: Path) -> Iterator[tuple[str, Numbers, int]]:
    """Name, numbers, values."""
    rng = np.random.default_rng(0)
    drawn: dict[str, Callable[[int], NDArray[np.float64]]] = {
        "Gaussian": rng.standard_normal,
        "Laplace": lambda count: rng.laplace(size=count),
        "uniform": lambda count: rng.uniform(-1, 1, count),
        "two outliers": lambda count: np.append(rng.standard_normal(count - 2), [1000.0, -3000.0]),
        "duplicates": lambda count: np.round(rng.laplace(size=count), 2),
        "80 % zeros": lambda count: np.where(rng.uniform(size=count) < 0.8, 0.0, rng.standard_normal(count)),
    }
    for name, draw in drawn.items():
        numbers = draw(SMALL).astype(np.float32)
        yield from ((name, numbers, values) for values in VALUES)
    for network in ("lenet5_fashion", "resnet20_cifar10", "dwcnn_fashion", "vit_fashion", "charlm_pydoc"):
        weights = read(shared / "models" / f"{network}.pt2").graph.named_parameters()
        layers = sorted(weights, key=lambda pair: pair[1].numel())
        path, weight = next(pair for pair in reversed(layers) if pair[1].numel() <= 2 * SMALL)
        numbers = weight.detach().numpy().ravel().astype(np.float32)
        yield from ((f"{network} {path}", numbers, values) for values in VALUES)
    for count, values in ((LENET, 16), (LENET, 64), (LENET, 256), (LARGE, 16), (LARGE, 256)):
        yield "Laplace", rng.laplace(size=count).astype(np.float32), values


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.process_time()
    call()
    return time.process_time() - began


def exact(numbers: Numbers, values: int) -> float:
    """The least squared error."""
    import kmeans1d  # type: ignore[import-not-found]

    if values >= len(np.unique(numbers)):
        return 0.0
    return error(numbers, np.array(sorted(kmeans1d.cluster(numbers.tolist(), values).centroids)))


def error(numbers: Numbers, book: NDArray[np.float64]) -> float:
    """The squared error of the nearest values of an ascending book."""
    nearest = book[np.searchsorted((book[1:] + book[:-1]) / 2, numbers.astype(np.float64))]
    return float(np.square(numbers - nearest).sum())


if __name__ == "__main__":
    main()
