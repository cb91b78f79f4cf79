"""The first part of a job: the uploaded model and data, ready for the first step."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from core.compression.material import FileMaterial, Material, NetworkMaterial
from core.compression.other_models import OtherModels, read_others
from core.compression.yardstick import input_batches
from core.data.dataset import Dataset, open_dataset
from core.data.preprocessor import is_preprocessor, read_preprocessor
from core.data.source import DataFile, data_files
from core.data.synthetic import Known, synthesise
from core.description import DatasetSpec, InputMapping, ModelDescription, SplitName, TensorDescription
from core.errors import ModelpressError
from core.messages import RunJob
from core.network.export import export_onnx
from core.network.export_check import noise_inputs, relative_difference
from core.network.fold import fold_batch_norm
from core.network.gate_onnx import open_onnx
from core.network.hf_folder import companions
from core.network.input_statistics import input_statistics
from core.network.inspect import inspect, read
from core.network.network import Network
from core.network.onnx_outside import save_onnx
from core.network.sampling import integer_limits, longest_text
from core.network.upload import Files, staged_by_name

PROBES = 8
FOLDING_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Prepared:
    """`original` is the uploaded model as ONNX, `material` what the first step gets."""

    description: ModelDescription
    original: Path
    dataset: Dataset | None
    material: Material
    companions: Files
    others: OtherModels = field(default_factory=OtherModels)


def prepare(request: RunJob, scratch: Path) -> Prepared:
    """Read model and data of a job; `scratch` is a folder for files. Raises `ModelpressError`."""
    files = staged_by_name(request.model)
    return _Preparation(request, scratch, files, inspect(files, request.seed)).prepare()


@final
@dataclass(frozen=True)
class _Preparation:
    request: RunJob
    scratch: Path
    files: Files
    description: ModelDescription

    def prepare(self) -> Prepared:
        return self._prepare_network() if self.description.mode == "network" else self._prepare_file()

    def _prepare_network(self) -> Prepared:
        """Fold batch norms, and see that nothing was lost by it."""
        read_network = read(self.files, self.request.seed)
        network = fold_batch_norm(read_network)
        # The tokenizer of a Hugging Face folder may be inside a zip.
        beside = companions(self.files, self.scratch / "companions")
        if self.request.dataset_spec is None:
            names = (tensor.name for tensor in network.inputs)
            limits = dict(zip(names, integer_limits(network.graph), strict=True))
            # Folding loses the statistics of batch norms.
            known = Known(limits, network.sizes, input_statistics(read_network), self._preprocessor(beside))
            dataset: Dataset = synthesise(network.inputs, known, self.request.seed)
        else:
            spec = self.request.dataset_spec
            dataset = self._open_data(spec, network.inputs, network.outputs, longest_text(network), beside)
        probes = _probes(network, dataset)
        _check_folding(read_network, network, probes)
        if self.description.format == "onnx":
            original = self._one_file()
        else:
            original = self.scratch / "original.onnx"
            export_onnx(network, original, probes=probes)
        others = read_others(self.request, self.description, network)
        material = NetworkMaterial(network, network, self.description, dataset, probes, self.scratch, others)
        return Prepared(self.description, original, dataset, material, beside, others)

    def _prepare_file(self) -> Prepared:
        """The checked file as it is, complete in itself and of an opset that is known here."""
        original = self.scratch / "original.onnx"
        save_onnx(open_onnx(self.files), original)
        inputs = self.description.inputs
        dataset = None
        if (spec := self.request.dataset_spec) is not None:
            dataset = self._open_data(spec, inputs, self.description.outputs, None, {})
        elif self.description.can_be_drawn():
            known = Known(sizes=self.description.counted_at, preprocessor=self._preprocessor({}))
            dataset = synthesise(inputs, known, self.request.seed)
        material = FileMaterial(original, self.description, dataset, self.scratch)
        return Prepared(self.description, original, dataset, material, {})

    def _one_file(self) -> Path:
        if len(self.files) == 1:
            return next(iter(self.files.values()))
        # The uploaded files lie here under other names than the model says.
        original = self.scratch / "original.onnx"
        save_onnx(open_onnx(self.files), original)
        return original

    def _open_data(
        self,
        spec: DatasetSpec,
        inputs: tuple[TensorDescription, ...],
        outputs: tuple[TensorDescription, ...],
        longest: int | None,
        beside: Files,
    ) -> Dataset:
        return open_dataset(
            data_files(self.request.dataset),
            spec,
            inputs,
            outputs=outputs,
            longest=longest,
            beside=self._beside(beside),
        )

    def _beside(self, companions: Files) -> list[DataFile]:
        return [*(DataFile(path, name) for name, path in companions.items()), *data_files(self.request.model)]

    def _preprocessor(self, companions: Files) -> InputMapping | None:
        """What the model's own preprocessor does to images; None where there is none or it is not understood."""
        file = next((file for file in self._beside(companions) if is_preprocessor(file)), None)
        try:
            return None if file is None else read_preprocessor(file)
        except ModelpressError:
            return None


def _probes(network: Network, dataset: Dataset) -> tuple[Tensor, ...]:
    """A few calibration samples where there are some, noise where not: what files and steps are compared on."""
    split: SplitName = "calibration" if dataset.count("calibration") else "evaluation"
    given = next(iter(input_batches(network, dataset, split, limit=PROBES, batch=PROBES)), None)
    return noise_inputs(network) if given is None else given


def _check_folding(before: Network, after: Network, probes: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        wanted, found = before.graph(*probes), after.graph(*probes)
    pairs = [(wanted, found)] if isinstance(wanted, Tensor) else list(zip(wanted, found, strict=True))
    for one, other in pairs:
        if not relative_difference(other.numpy(), one.numpy()) <= FOLDING_TOLERANCE:
            raise ModelpressError("parity_lost", "Folding the batch norms into their layers changed the outputs.")
