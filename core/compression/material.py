"""What the steps of a recipe change: a network, or an ONNX file where there is no network or a step wants the file."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import final

from torch import Tensor

from core.compression.checks import check_file, check_step
from core.compression.context import Context
from core.compression.file_layers import list_changed_layers, list_file_layers
from core.compression.layers import list_layers
from core.compression.method import Report
from core.compression.other_models import OtherModels
from core.compression.registry import file_method_of, method_of
from core.compression.yardstick import Yardstick, choosing_split
from core.data.dataset import Dataset
from core.description import ModelDescription
from core.network.checkpoint import read_network, write_network
from core.network.export import export_onnx, export_pt2, export_safetensors
from core.network.gate_onnx import open_onnx
from core.network.network import Network
from core.network.upload import Files
from core.specs.base import Spec
from core.verdict import LayerVerdict

ONNX, PT2, SAFETENSORS = "model.onnx", "model.pt2", "model.safetensors"
_GRAPH, _NUMBERS = "network.json", "network.safetensors"
# Samples on which the quality after each step is told.
QUALITY_SAMPLES = 512

Progress = Callable[[float, str], None]


class Material(ABC):
    """One state of the model on its way through the recipe."""

    @abstractmethod
    def take(self, spec: Spec, context: Context) -> tuple["Material", Report]:
        """What a step makes of it, checked; that steps can follow each other was seen to (`Recipe.misplaced`)."""

    @abstractmethod
    def tell_quality(self, context: Context) -> float | None:
        """The quality on a few samples that are not those of evaluation, which is also logged; None where not told."""

    @abstractmethod
    def write(self, out: Path, progress: Progress) -> tuple[str, ...]:
        """Write the files of the result into `out`; gives their names, `model.onnx` first."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write down all that a later step needs into `folder`; raises `unsupported_graph` for what cannot be."""

    @abstractmethod
    def restore(self, files: Files) -> "Material":
        """What was saved as `files`, by a job that began as this one did; raises `corrupt_file` and other errors."""

    @abstractmethod
    def layers(self, reports: tuple[Report, ...]) -> tuple[LayerVerdict, ...]:
        """What became of each layer."""


@final
@dataclass(frozen=True)
class NetworkMaterial(Material):
    """A network, beside the one that the job began with; `scratch` is a folder for files."""

    network: Network
    original: Network
    description: ModelDescription
    dataset: Dataset | None
    probes: tuple[Tensor, ...]
    scratch: Path
    others: OtherModels = field(default_factory=OtherModels)

    def take(self, spec: Spec, context: Context) -> tuple[Material, Report]:
        """The changed network; a step that works on files gets the network as a file."""
        if spec.works_on == "file":
            return self._as_file().take(spec, context)
        context = replace(context, original=self.original, models=self.others.networks)
        changed, report = method_of(spec).apply(self.network, spec, context)
        check_step(self.network, changed, report, self.probes)
        return replace(self, network=changed), report

    def tell_quality(self, context: Context) -> float | None:
        """By torch, on the split that choices are made on."""
        if self.dataset is None:
            return None
        yardstick = Yardstick(self.original, self.dataset, split=choosing_split(self.dataset), limit=QUALITY_SAMPLES)
        score = yardstick.score(self.network)
        context.log(
            f"On {yardstick.samples} {choosing_split(self.dataset)} samples the quality was "
            f"{yardstick.original.quality:.4f} and is {score.quality:.4f}; signal to noise of the output is "
            f"{score.sqnr_db:.1f} dB."
        )
        return score.quality

    def write(self, out: Path, progress: Progress) -> tuple[str, ...]:
        """ONNX, `.pt2` and safetensors."""
        progress(0.0, "Writing and checking the ONNX file")
        export_onnx(self.network, out / ONNX, probes=self.probes)
        progress(0.5, "Writing and checking the .pt2 file")
        export_pt2(self.network, out / PT2, probes=self.probes)
        export_safetensors(self.network, out / SAFETENSORS)
        return ONNX, PT2, SAFETENSORS

    def save(self, folder: Path) -> None:
        """Graph and numbers."""
        write_network(self.network, folder / _GRAPH, folder / _NUMBERS)

    def restore(self, files: Files) -> Material:
        """The network, or the file that a step has made of it."""
        if _GRAPH in files and _NUMBERS in files:
            return replace(self, network=read_network(files[_GRAPH], files[_NUMBERS]))
        return FileMaterial(self.scratch, self.description, self.dataset, self.scratch).restore(files)

    def layers(self, reports: tuple[Report, ...]) -> tuple[LayerVerdict, ...]:
        """Of the network's own layers, by their encodings."""
        return list_layers(self.original, self.network, reports)

    def _as_file(self) -> "FileMaterial":
        path = self.scratch / "network.onnx"
        export_onnx(self.network, path, probes=self.probes)
        return FileMaterial(path, self.description, self.dataset, self.scratch)


@final
@dataclass(frozen=True)
class FileMaterial(Material):
    """An ONNX file."""

    path: Path
    description: ModelDescription
    dataset: Dataset | None
    scratch: Path

    def take(self, spec: Spec, context: Context) -> tuple[Material, Report]:
        """The changed file."""
        result = self.scratch / f"step_{context.index}.onnx"
        report = file_method_of(spec).apply(self.path, result, spec, context)
        check_file(self.path, result, self.dataset, self.description)
        # What a quantizer of others did is seen in the file.
        report = replace(report, layers=list_changed_layers(self.description, self.path, result))
        return replace(self, path=result), report

    def tell_quality(self, context: Context) -> float | None:
        """Nothing: the file is judged once, on the evaluation split."""
        context.log("What the file answers is judged when it is measured.")
        return None

    def write(self, out: Path, progress: Progress) -> tuple[str, ...]:
        """The file alone."""
        progress(0.0, "Writing the ONNX file")
        shutil.copyfile(self.path, out / ONNX)
        return (ONNX,)

    def save(self, folder: Path) -> None:
        """The file, and its weights where those lie beside it."""
        for path in self.path.parent.glob(f"{self.path.name}*"):
            shutil.copyfile(path, folder / path.name)

    def restore(self, files: Files) -> Material:
        """The file, copied to where it may lie beside its weights."""
        open_onnx(files)
        folder = Path(mkdtemp(dir=self.scratch))
        for name, path in files.items():
            shutil.copyfile(path, folder / Path(name).name)
        return replace(self, path=next(folder / Path(name).name for name in files if name.endswith(".onnx")))

    def layers(self, reports: tuple[Report, ...]) -> tuple[LayerVerdict, ...]:
        """Of the described layers, by the constants that the file stores for them."""
        return list_file_layers(self.description, self.path, reports)
