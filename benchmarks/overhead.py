"""What the service adds to the work: the wall time of a job minus the same recipe called as a library.

    python -m benchmarks.overhead --runs 3

Both do the demo's job (LeNet-5, MNIST, int8), one after the other. The job's time is the client's: from the POST to the
event that ends it. The library is called in a fresh interpreter, as a script would, which loads torch as the runner
must; `warm` is the same call where everything is loaded and was called before.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from core.description import DatasetSpec, InputMapping, SplitArrays
from core.messages import Message, RunJob, StagedFile
from core.resources.job import Job, JobCreate
from core.resources.model import DatasetCreate, ModelCreate
from core.specs.linear import LinearQuantization
from core.specs.recipe import Constraints, Recipe, Target
from core.states import JobState
from launch.stack import Options
from launch.supervisor import Supervisor
from modelpress.client import Client

DEMO = Path(__file__).parents[1] / "demo"
NET, DATA = DEMO / "lenet5.onnx", DEMO / "mnist.npz"
SPEC = DatasetSpec(
    task="classification",
    inputs={"x": InputMapping(layout="NHW", scale=1 / 255, mean=(0.5,), std=(0.5,))},
    splits={"train": SplitArrays(x="x_train", y="y_train"), "evaluation": SplitArrays(x="x_test", y="y_test")},
)
RECIPE = Recipe(steps=(LinearQuantization(),))


def main() -> None:
    parser = argparse.ArgumentParser(description="What the service adds to the work.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--library", type=Path, help="only call the library, in this new folder")
    asked = parser.parse_args()
    if asked.library:
        run_library(asked.library)
        return
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        with Supervisor(Options(home=home, port=None)) as stack:
            key = stack.start(key_name="benchmark").key
            assert key is not None
            os.environ["OMP_NUM_THREADS"] = stack.environment["OMP_NUM_THREADS"]
            with Client(stack.url, key) as client:
                measure(client, asked.runs, Path(name))


def measure(client: Client, runs: int, folder: Path) -> None:
    """Job and library in turns; a line for each pair, then the medians."""
    model = client.inspected(client.create_model(ModelCreate(uploads=(client.upload(NET).id,))))
    spec = SPEC.model_dump(mode="json")
    asked = DatasetCreate.model_validate({"uploads": [client.upload(DATA).id], **spec})
    dataset = client.inspected(client.create_dataset(asked))
    assert model.error is None, model.error
    assert dataset.error is None, dataset.error
    order = JobCreate(model=model.id, dataset=dataset.id, recipe=RECIPE)
    run_library(folder / "warm-up")
    pairs = []
    print(f"{'job s':>8} {'queued s':>9} {'library s':>10} {'overhead s':>11} {'warm s':>8}")
    for number in range(runs):
        took, job = run_job(client, order)
        library, warm = run_script(folder / f"script-{number}"), run_library(folder / f"warm-{number}")
        pairs.append((took, library))
        waited = (job.started_at - job.created_at).total_seconds() if job.started_at else float("nan")
        print(f"{took:>8.2f} {waited:>9.2f} {library:>10.2f} {took - library:>11.2f} {warm:>8.2f}", flush=True)
    jobs, libraries = zip(*pairs, strict=True)
    overheads = [job - library for job, library in pairs]
    print(f"median: job {statistics.median(jobs):.2f}, library {statistics.median(libraries):.2f}", end=", ")
    print(f"overhead {statistics.median(overheads):.2f} s, worst {max(overheads):.2f} s")


def run_job(client: Client, order: JobCreate) -> tuple[float, Job]:
    """Seconds from the POST to the last event, and the finished job."""
    began = time.monotonic()
    identifier = client.create_job(order).id
    for _ in client.follow(identifier):
        pass
    took = time.monotonic() - began
    job = client.job(identifier)
    assert job.state is JobState.SUCCEEDED, job.error
    return took, job


def run_script(work: Path) -> float:
    """Seconds of the same recipe as a script in a fresh interpreter."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "benchmarks.overhead", "--library", str(work)], check=True)
    return time.monotonic() - began


def run_library(work: Path) -> float:
    """Seconds of the same recipe in this process."""
    import torch

    from core.compression.pipeline import run

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    work.mkdir()
    lock = work / "lock"
    lock.touch()
    request = RunJob(
        job="job_library",
        recipe=RECIPE,
        target=Target(),
        constraints=Constraints(),
        seed=0,
        model=(stage(NET),),
        dataset=(stage(DATA),),
        dataset_spec=SPEC,
        lock_path=str(lock),
    )
    said: list[Message] = []
    began = time.monotonic()
    run(request, said.append, work)
    return time.monotonic() - began


def stage(path: Path) -> StagedFile:
    content = path.read_bytes()
    return StagedFile(path=str(path), filename=path.name, sha256=sha256(content).hexdigest(), bytes=len(content))


if __name__ == "__main__":
    main()
