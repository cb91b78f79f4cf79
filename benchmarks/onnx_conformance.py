"""The standard's own tests of each operator that is read: passed and total, and why the others do not pass.

python -m benchmarks.onnx_conformance
"""

import torch

from tests.conformance.onnx_cases import run_models, run_nodes
from tests.conformance.test_onnx_operators import show


def main() -> None:
    torch.set_num_threads(1)
    show(run_nodes())
    show(run_models())


if __name__ == "__main__":
    main()
