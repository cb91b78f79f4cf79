"""The finding `two_conditions` of jobs: one that got faster, one that did not.

    OMP_NUM_THREADS=1 python -m benchmarks.two_conditions --shared ../shared [--runtime auto] [NETWORK ...]

Each is a whole job of `quantize.linear` with its defaults; what the verdict says of speed is printed, and the numbers.
"""

import argparse
import logging
import os
import tempfile
import warnings
from pathlib import Path

import torch

from benchmarks.path_int8 import NETWORKS, staged
from core.compression.pipeline import run
from core.description import DatasetSpec, SplitArrays
from core.measure.host import describe_host
from core.messages import RunJob
from core.specs.linear import LinearQuantization
from core.specs.recipe import Constraints, Recipe, Target
from core.verdict import Verdict

DEFAULT = ("resnet20_cifar10", "lenet300_fashion", "dwcnn_fashion", "vit_fashion")
SPLITS = {"train": SplitArrays(x="x_train", y="y_train"), "evaluation": SplitArrays(x="x_test", y="y_test")}
TOLD = ("two_conditions", "slower_than_original", "no_measurable_change", "runtime_chosen", "conversion_overhead")


def run_job(name: str, shared: Path, runtime: str) -> Verdict:
    data, mapping = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        job = RunJob(
            job="job_benchmark",
            recipe=Recipe(steps=(LinearQuantization(),)),
            target=Target(runtime=runtime),
            constraints=Constraints(),
            seed=0,
            model=(staged(shared / "models" / f"{name}.onnx"),),
            dataset=(staged(shared / "data" / data),),
            dataset_spec=DatasetSpec(task="classification", inputs={"x": mapping}, splits=SPLITS),
            lock_path=str(Path(folder) / "lock"),
        )
        return run(job, lambda message: None, Path(folder))  # noqa: ARG005  nobody listens


def main() -> None:
    parser = argparse.ArgumentParser(description="The finding two_conditions of jobs.")
    parser.add_argument("networks", nargs="*", default=list(DEFAULT), help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--runtime", default="onnxruntime-cpu", choices=("onnxruntime-cpu", "openvino-cpu", "auto"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for name in asked.networks:
        verdict = run_job(name, asked.shared, asked.runtime)
        print(f"{name}: {verdict.sentence} (noise floor {100 * verdict.conditions.noise_floor:.1f} %)")
        for finding in verdict.findings:
            if finding.code in TOLD:
                print(f"  {finding.code}: {finding.text}", flush=True)
    print(f"on {describe_host().cpu}, one thread, load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
