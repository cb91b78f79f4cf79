"""Who learns: the network as it stands, another model, or a smaller network that is cut out of a teacher."""

from core.compression.context import Context
from core.compression.distill.recalibration import recalibrate
from core.errors import ModelpressError
from core.network.network import Network
from core.network.surgery.blocks import find_blocks
from core.network.surgery.depth import choose_blocks
from core.network.surgery.thinning import cut_out_thin, magnitude
from core.specs.distill import ORIGINAL, BlockDistillation, Distillation


def teachers_of(spec: Distillation, network: Network, context: Context) -> tuple[Network, ...]:
    """The networks that teach; without a job's original, as in direct use, the network itself is it."""
    original = context.original or network
    return tuple(original if name == ORIGINAL else _other(name, context) for name in spec.teachers())


def teacher_of(spec: BlockDistillation, network: Network, context: Context) -> Network:
    """The network that gives the values between blocks."""
    return (context.original or network) if spec.teacher == ORIGINAL else _other(spec.teacher, context)


def choose_student(spec: Distillation, network: Network, context: Context) -> Network:
    """The network that is to be trained, not yet trained; raises `method_not_applicable`."""
    if spec.student is None:
        return network
    if isinstance(spec.student, str):
        return _other(spec.student, context)
    teacher = teachers_of(spec, network, context)[0]
    thinned = cut_out_thin(teacher, spec.student.width, spec.student.depth, magnitude)
    student = thinned.network
    sizes = [sum(parameter.numel() for parameter in each.graph.parameters()) for each in (teacher, student)]
    said = ""
    if spec.student.depth < 1:
        blocks = find_blocks(teacher)
        left = len(blocks) - len(choose_blocks(blocks, spec.student.depth))
        said = f", and {left} of its {len(blocks)} blocks"
    context.log(f"The student has {sizes[1]:,} of the teacher's {sizes[0]:,} parameters{said}.")
    recalibrate(student, teacher, thinned.kept, context)
    return student


def _other(identifier: str, context: Context) -> Network:
    if identifier not in context.models:
        raise ModelpressError("internal", f"The model {identifier} was not given to the step.", step=context.step)
    return context.models[identifier]
