"""A small real runner for the tests of the supervisor: it does what its first input says, well or badly.

The input is `{"inspect": [action, …], "run": [action, …]}`; an action is an object with one key of `ACTIONS`. The data
set of a job may be anything.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from core.description import (
    DatasetDescription,
    LayerDescription,
    ModelDescription,
    Parity,
    SplitDescription,
    TensorDescription,
)
from core.messages import REQUEST, DatasetInspected, InspectDataset, InspectModel, JobDone, ModelInspected, RunJob, Said
from core.verdict import Change, Conditions, ItemisedBytes, Measured, Reproduce, Verdict

MEASURED = Measured(
    bytes=10,
    bytes_stripped=10,
    bytes_xz=10,
    parameters=1,
    macs=1,
    planned_activation_bytes=4,
    peak_rss_bytes=1,
    load_ms=1,
    quality=None,
    latency=(),
)
VERDICT = Verdict(
    satisfied=True,
    sentence="A toy is as good as it was.",
    original=MEASURED,
    result=MEASURED,
    change=Change(size_ratio=1, size_ratio_fp16=1, quality=None, speedup=(), activation_ratio=1),
    itemised_bytes=ItemisedBytes(graph=10),
    layers=(),
    findings=(),
    conditions=Conditions(
        runtime="toy", threads=1, cpu="toy", flags=(), host_class="toy", interleaved=True, noise_floor=0
    ),
    reproduce=Reproduce(recipe_sha256="0", plan=None, seed=0, versions={}, artifact_sha256="0"),
)
MODEL = ModelDescription(
    format="onnx",
    inputs=(TensorDescription(name="x", dtype="float32", shape=("batch", 4)),),
    outputs=(TensorDescription(name="y", dtype="float32", shape=("batch", 2)),),
    parameters=10,
    macs=8,
    planned_activation_bytes=24,
    bytes_stripped=100,
    layers=(
        LayerDescription(
            name="fc",
            kind="linear",
            weight_shape=(2, 4),
            output_shape=("batch", 2),
            parameters=10,
            macs=8,
            activation_bytes=8,
        ),
    ),
    operators={"Gemm": 1},
    parity=Parity(max_abs_difference=0, max_abs_output=1, samples=1, reference="toy"),
)
DATASET = DatasetDescription(
    format="npz",
    task="classification",
    inputs=(TensorDescription(name="x", dtype="float32", shape=("batch", 4)),),
    splits={
        name: SplitDescription(samples=1000, labelled=True)
        for name in ("train", "calibration", "validation", "evaluation")
    },
    classes=2,
)


HELD: list[object] = []
REQUESTED: RunJob | InspectModel | InspectDataset
# A path below the folder of the run, and what is written there or how much.
Written = tuple[str, str]
Filled = tuple[str, int]


def emit(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def say(message: Said) -> None:
    emit(message.model_dump_json())


def log(text: str) -> None:
    emit(json.dumps({"kind": "log", "text": text}))


def spin(_: object) -> None:
    while True:
        pass


def complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def emit_raw(digits: str) -> None:
    sys.stdout.buffer.write(bytes.fromhex(digits))
    sys.stdout.flush()


def emit_long_line(size: int) -> None:
    for _ in range(size >> 16):
        sys.stdout.write("x" * 65536)
    sys.stdout.flush()


def flood(lines: int) -> None:
    for count in range(lines):
        log(f"line {count}")


def allocate(size: int) -> None:
    HELD.extend(b"x" * (16 << 20) for _ in range(size >> 24))
    time.sleep(60)


def fork(children: int) -> None:
    """Children in sessions of their own that would outlive their parent."""
    for _ in range(children):
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)


def write(asked: Written) -> None:
    path = WORKDIR / asked[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(asked[1])


def fill(asked: Filled) -> None:
    with (WORKDIR / asked[0]).open("wb") as file:
        for _ in range(asked[1] >> 20):
            file.write(os.urandom(1 << 20))
    time.sleep(60)


def hide(asked: tuple[str, int]) -> None:
    """Files of a mebibyte each that have no name."""
    for _ in range(asked[1]):
        if asked[0] == "deleted":
            file = (WORKDIR / "tmp" / "hidden").open("wb")
            (WORKDIR / "tmp" / "hidden").unlink()
        else:
            file = os.fdopen(os.memfd_create("hidden"), "wb")
        file.write(b"x" * (1 << 20))
        file.flush()
        HELD.append(file)


def close_folder(path: str) -> None:
    """A folder with a file that its own owner may no longer enter."""
    closed = WORKDIR / path / "closed"
    closed.mkdir(parents=True)
    (closed / "file").write_text("x")
    closed.chmod(0)


def run_python(text: str) -> None:
    told = subprocess.run([sys.executable, "-I", "-c", text], capture_output=True, text=True, check=False)
    log((told.stdout + told.stderr).strip())


def probe(asked: dict[str, list[object]]) -> None:
    """Try what a hostile runner would try; a line for each thing that worked, and one on what can be seen."""
    attempts = (("files", read_file), ("writes", write_file), ("addresses", connect))
    for kind, attempt in attempts:
        for subject in asked.get(kind, []):
            with contextlib.suppress(OSError):
                attempt(subject)
                log(f"reached {subject}")
    processes = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    root = [entry.name for entry in Path("/").iterdir()]
    log(json.dumps({"environment": dict(os.environ), "processes": len(processes), "uid": os.getuid(), "root": root}))


def read_file(path: str) -> None:
    Path(path).read_bytes()


def write_file(path: str) -> None:
    Path(path).write_text("x")


def connect(address: str | list[object]) -> None:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(1)
        connection.connect(address if isinstance(address, str) else tuple(address))


def checkpoint(asked: dict[str, object]) -> None:
    """A checkpoint of one file."""
    path = f"checkpoints/{len(list((WORKDIR / 'out').glob('checkpoints/*')))}/kept.txt"
    write((f"out/{path}", str(asked["text"])))
    files = [{"path": path, "filename": "kept.txt"}]
    emit(json.dumps({"kind": "checkpoint", "step": asked["step"], "finished": asked["finished"], "files": files}))


def tell_resume(_: object) -> None:
    resume = REQUESTED.resume
    if resume is None:
        return
    kept = {kind: [Path(file.path).read_text() for file in getattr(resume, kind)] for kind in ("finished", "partial")}
    log(json.dumps({"job": resume.job, "steps": resume.steps, **kept}))


def unless_resumed(actions: list[dict[str, object]]) -> None:
    """What a run does that nothing has gone before."""
    if REQUESTED.resume is None:
        carry_out(actions)


ACTIONS = {
    "say": lambda message: emit(json.dumps(message)),
    "done": lambda _: say(JobDone(verdict=VERDICT)),
    "done_and_more": lambda more: emit(f"{JobDone(verdict=VERDICT).model_dump_json()}\n{json.dumps(more)}"),
    "describe": lambda _: say(ModelInspected(description=MODEL)),
    "sleep": time.sleep,
    "spin": spin,
    "exit": sys.exit,
    "signal": lambda number: os.kill(os.getpid(), number),
    "complain": complain,
    "raw": emit_raw,
    "long_line": emit_long_line,
    "flood": flood,
    "hold": lambda size: HELD.append(b"x" * size),
    "allocate": allocate,
    "fork": fork,
    "write": write,
    "fill": fill,
    "hide": hide,
    "link": lambda asked: (WORKDIR / asked[0]).symlink_to(asked[1]),
    "close_folder": close_folder,
    "python": run_python,
    "probe": probe,
    "checkpoint": checkpoint,
    "tell_resume": tell_resume,
    "unless_resumed": unless_resumed,
}


def carry_out(actions: list[dict[str, object]]) -> None:
    for action in actions:
        ((name, asked),) = action.items()
        ACTIONS[name](asked)


def main() -> None:
    global REQUESTED  # noqa: PLW0603  (a program with one request)
    request = REQUESTED = REQUEST.validate_json((WORKDIR / "request.json").read_bytes())
    if isinstance(request, InspectDataset):
        say(DatasetInspected(description=DATASET))
        return
    files = request.model if isinstance(request, RunJob) else request.files
    script = json.loads(Path(files[0].path).read_text())
    carry_out(script.get("run" if isinstance(request, RunJob) else "inspect", []))
    if not isinstance(request, RunJob):
        say(ModelInspected(description=MODEL))


if __name__ == "__main__":
    WORKDIR = Path(sys.argv[1])
    main()
