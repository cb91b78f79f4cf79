"""What a job would do, what it would take, and what speaks against it: the dry run, and the check before a job."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import JsonValue
from sqlalchemy.orm import Session

from core.database.tables import DatasetRow, JobRow, ModelRow
from core.description import DatasetDescription, ModelDescription
from core.errors import ModelpressError
from core.resources.job import DryRun, JobCreate, Objection, PlannedStep, Range
from core.services import datasets, estimates, models, replays, system
from core.services.data_inputs import object_to_inputs
from core.services.file_sizes import object_to_sizes
from core.services.tenancy import Lock, get_owned
from core.specs.base import Family
from core.specs.order import find_clash
from core.specs.recipe import Step
from core.specs.train import LEARNT_TASKS
from core.specs.weight_bits import Bits, stacked
from core.states import InspectionState

_NOTHING = Range(low=0, high=0)


@dataclass(frozen=True, slots=True)
class Ingredients:
    """The rows that a job is made of, and what inspection found of them once they are ready.

    `others` are the other models that steps need, by the pointer that names them.
    """

    model: ModelRow
    dataset: DatasetRow | None
    model_description: ModelDescription | None
    dataset_description: DatasetDescription | None
    others: Mapping[str, ModelRow]
    planned: JobRow | None = None
    # The packages of the runtimes that workers have; None while no worker has told.
    runtimes: frozenset[str] | None = None

    def other_descriptions(self) -> dict[str, ModelDescription]:
        """What is known of the other models that are ready, by id."""
        found = {row.id: models.description_of(row) for row in self.others.values()}
        return {identifier: each for identifier, each in found.items() if each is not None}


def gather(session: Session, tenant: str, asked: JobCreate, *, lock: Lock = "none") -> Ingredients:
    """Finds model, data set and the other models that steps name; raises `not_found` with a pointer."""
    with _pointing("/model"):
        model = get_owned(session, ModelRow, tenant, asked.model, lock=lock)
    with _pointing("/dataset"):
        dataset = get_owned(session, DatasetRow, tenant, asked.dataset, lock=lock) if asked.dataset else None
    others = {}
    for pointer, identifier in asked.recipe.references().items():
        with _pointing(pointer):
            others[pointer] = get_owned(session, ModelRow, tenant, identifier, lock=lock)
    with _pointing("/plan"):
        planned = replays.find_planned(session, tenant, asked)
    found = datasets.description_of(dataset) if dataset else None
    runtimes = system.offered_runtimes(session)
    return Ingredients(model, dataset, models.description_of(model), found, others, planned, runtimes)


@contextmanager
def _pointing(pointer: str) -> Iterator[None]:
    try:
        yield
    except ModelpressError as error:
        error.pointer = pointer
        raise


def plan(session: Session, tenant: str, asked: JobCreate) -> DryRun:
    """What `asked` would do; queues nothing."""
    ingredients = gather(session, tenant, asked)
    objections = tuple(object_to(asked, ingredients))
    model, data = ingredients.model_description, ingredients.dataset_description
    steps = plan_steps(asked, ingredients)
    data_bytes = ingredients.dataset.bytes if ingredients.dataset else 0
    return DryRun(
        ok=not any(objection.severity == "blocks" for objection in objections),
        plan=steps,
        seconds=estimates.estimate_seconds(asked, model, data, len(asked.recipe.steps)) if model else _NOTHING,
        memory_bytes=estimates.estimate_memory(asked, model, data_bytes) if model else _NOTHING,
        bytes=estimates.estimate_bytes(asked, model, _narrowed(asked, model, steps)) if model else _NOTHING,
        objections=objections,
    )


def check(asked: JobCreate, ingredients: Ingredients) -> None:
    """Raises the first objection that blocks, with its code and pointer."""
    for objection in object_to(asked, ingredients):
        if objection.severity == "blocks":
            raise ModelpressError(objection.code, objection.text, pointer=objection.pointer)


def plan_steps(asked: JobCreate, ingredients: Ingredients) -> tuple[PlannedStep, ...]:
    """The steps of a job by name, and the layers that each would touch."""
    model, others = ingredients.model_description, ingredients.other_descriptions()
    methods = []
    for step in asked.recipe.steps:
        layers = step.suits(model, others).layers if model else ()
        methods.append(PlannedStep(name=step.method, layers=layers))
        model = step.leaves(model, others) if model else None
    return (PlannedStep(name="prepare"), *methods, PlannedStep(name="export"), PlannedStep(name="measure"))


def _narrowed(asked: JobCreate, model: ModelDescription, steps: tuple[PlannedStep, ...]) -> dict[str, Bits]:
    """The layers that take fewer bytes afterwards, with the bits of a weight by the last step of each family."""
    layers = {layer.name: layer for layer in model.layers}
    found: dict[str, dict[Family, Bits]] = {}
    # Between the first and the last two, which are no methods.
    for spec, step in zip(asked.recipe.steps, steps[1:-2], strict=True):
        for name in step.layers:
            if name in layers and (bits := spec.weight_bits(layers[name])) is not None:
                found.setdefault(name, {})[spec.family] = bits
    return {name: stacked(bits.values()) for name, bits in found.items()}


def object_to(asked: JobCreate, ingredients: Ingredients) -> Iterator[Objection]:
    """All that speaks against a job, what blocks it first."""
    model, data = ingredients.model_description, ingredients.dataset_description
    if model is None:
        yield _not_ready("model", ingredients.model.state)
        return
    if ingredients.dataset is not None and data is None:
        yield _not_ready("dataset", ingredients.dataset.state)
        return
    others = ingredients.other_descriptions()
    if waiting := {pointer: row for pointer, row in ingredients.others.items() if row.id not in others}:
        yield from (_not_ready("model", row.state, pointer) for pointer, row in waiting.items())
        return
    yield from replays.object_to_plan(asked, ingredients.planned)
    if (misplaced := asked.recipe.misplaced() or find_clash(asked.recipe.steps, model, others)) is not None:
        place, why = misplaced
        yield Objection(pointer=f"/recipe/steps/{place}", severity="blocks", code="method_not_applicable", text=why)
    described = model
    for position, step in enumerate(asked.recipe.steps):
        yield from _object_to_step(f"/recipe/steps/{position}", step, described, ingredients)
        described = step.leaves(described, others)
    yield from object_to_sizes(asked, model, _narrowed(asked, model, plan_steps(asked, ingredients)))
    if data is not None:
        yield from object_to_inputs(model, data)
    yield from _object_to_constraints(asked, data)
    yield from _object_to_batches(asked, model)
    yield from _object_to_runtime(asked, ingredients.runtimes)
    yield from _advise(asked, ingredients)


def _not_ready(kind: str, state: str, pointer: str | None = None) -> Objection:
    # A ready one without a description is about to be inspected by a newer inspector.
    waits = state in (InspectionState.INSPECTING, InspectionState.READY)
    text = f"The {kind} is still being inspected." if waits else f"The {kind} is {state} and cannot be used."
    return Objection(pointer=pointer or f"/{kind}", severity="blocks", code=f"{kind}_not_ready", text=text)


def _object_to_step(pointer: str, step: Step, model: ModelDescription, ingredients: Ingredients) -> Iterator[Objection]:
    data = ingredients.dataset_description
    capability = step.suits(model, ingredients.other_descriptions())
    if not capability.ok:
        text = capability.why or "The method does not fit this model."
        patch = _without_unknown_layers(pointer, step, model)
        yield Objection(pointer=pointer, severity="blocks", code="method_not_applicable", text=text, repair=patch)
    if data is None:
        yield from _object_to_no_data(step, model)
        return
    if step.needs_labels() and not any(split.labelled for split in data.splits.values()):
        text = f"{step.method} needs labels, and the data set has none."
        yield Objection(pointer="/dataset", severity="blocks", code="missing_data", text=text)
    elif step.needs_labels() and step.needed().training:
        yield from _object_to_labels(step, data)
    available = sum(data.splits[name].samples for name in ("calibration", "train") if name in data.splits)
    if (step.calibration_samples() or step.needed().training) and not available:
        text = f"{step.method} needs a calibration or train split, and the data set has neither."
        yield Objection(pointer="/dataset", severity="blocks", code="missing_data", text=text)


def _object_to_labels(step: Step, data: DatasetDescription) -> Iterator[Objection]:
    """Labels are learnt from where the samples are that training sees, and not of every task."""
    learnt = next((name for name in ("train", "calibration") if name in data.splits), None)
    text = None
    if data.task not in LEARNT_TASKS:
        text = f"{step.method} cannot learn from labels of the task {data.task}; it knows {', '.join(LEARNT_TASKS)}."
    elif learnt is not None and not data.splits[learnt].labelled:
        text = f"{step.method} learns from labels, and the {learnt} split has none."
    if text is not None:
        yield Objection(pointer="/dataset", severity="blocks", code="missing_data", text=text)


def _object_to_no_data(step: Step, model: ModelDescription) -> Iterator[Objection]:
    if step.needed().data and not step.needed().synthetic:
        text = f"{step.method} needs samples to learn from; give a data set."
        yield Objection(pointer="/dataset", severity="blocks", code="missing_data", text=text)
    elif not step.calibration_samples():
        return
    elif step.needed().synthetic and model.can_be_drawn():
        text = (
            f"Without a data set {step.method} is calibrated on inputs that are drawn, and only agreement with the "
            "original is measured."
        )
        yield Objection(pointer="/dataset", severity="advice", code="missing_data", text=text)
    else:
        text = f"{step.method} needs data for calibration; give a data set."
        yield Objection(pointer="/dataset", severity="blocks", code="missing_data", text=text)


def _without_unknown_layers(
    pointer: str, step: Step, model: ModelDescription
) -> tuple[dict[str, JsonValue], ...] | None:
    """A patch that takes unknown names out of `keep_float`, last first, so that positions stay right."""
    known = {layer.name for layer in model.layers}
    named: tuple[str, ...] = getattr(step, "keep_float", ())
    unknown = [place for place, name in enumerate(named) if name not in known]
    kept = tuple(name for name in named if name in known)
    if not unknown or not step.model_copy(update={"keep_float": kept}).requires(model).ok:
        return None
    return tuple({"op": "remove", "path": f"{pointer}/keep_float/{place}"} for place in reversed(unknown))


def _object_to_constraints(asked: JobCreate, data: DatasetDescription | None) -> Iterator[Objection]:
    measured = data is not None and data.splits.get("evaluation") is not None
    if asked.constraints.max_drop is not None and not measured:
        text = "max_drop is judged on an evaluation split; give a data set that has one."
        yield Objection(
            pointer="/constraints/max_drop",
            severity="blocks",
            code="missing_data",
            text=text,
            repair=({"op": "remove", "path": "/constraints/max_drop"},),
        )


def _object_to_batches(asked: JobCreate, model: ModelDescription) -> Iterator[Objection]:
    size = model.inputs[0].shape[0] if model.inputs and model.inputs[0].shape else None
    if model.batch != "fixed" or not isinstance(size, int) or set(asked.target.batch_sizes) == {size}:
        return
    reason = f" ({model.batch_reason.rstrip('.')})" if model.batch_reason else ""
    yield Objection(
        pointer="/target/batch_sizes",
        severity="blocks",
        code="invalid_request",
        text=f"The model runs at batch {size} only{reason}.",
        repair=({"op": "add", "path": "/target", "value": _target_at(asked, size)},),
    )


def _object_to_runtime(asked: JobCreate, offered: frozenset[str] | None) -> Iterator[Objection]:
    """A worker that starts later may have it, so nothing is said while none has told what it has."""
    if asked.target.runtime == "openvino-cpu" and offered is not None and "openvino" not in offered:
        text = "No worker has OpenVINO. Install the extra `openvino` on one, or choose another runtime."
        yield Objection(
            pointer="/target/runtime",
            severity="blocks",
            code="runtime_missing",
            text=text,
            repair=({"op": "replace", "path": "/target/runtime", "value": "onnxruntime-cpu"},),
        )


def _target_at(asked: JobCreate, size: int) -> dict[str, JsonValue]:
    return asked.target.model_copy(update={"batch_sizes": (size,)}).model_dump(mode="json")


def _advise(asked: JobCreate, ingredients: Ingredients) -> Iterator[Objection]:
    model, data = ingredients.model_description, ingredients.dataset_description
    if model is None:
        return
    data_bytes = ingredients.dataset.bytes if ingredients.dataset else 0
    memory = estimates.estimate_memory(asked, model, data_bytes)
    if memory.low > asked.limits.memory_bytes:
        text = f"The job will need at least {memory.low / 1e9:.1f} GB, and is stopped above its limit."
        yield Objection(pointer="/limits/memory_bytes", severity="advice", code="out_of_memory", text=text)
    if data is None:
        return
    if "evaluation" not in data.splits:
        text = "The data set has no evaluation split: quality cannot be measured."
        yield Objection(pointer="/dataset", severity="advice", code="missing_data", text=text)
    elif not data.splits["evaluation"].labelled:
        text = "Evaluation samples have no labels: quality is agreement with the original."
        yield Objection(pointer="/dataset", severity="advice", code="missing_data", text=text)
