"""The specs of the family `prune`: weights that are set to zero one by one or in parts, and stored as a mask."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from core.description import LayerDescription, ModelDescription
from core.specs.base import Capability, Family, Needs, Spec, WorksOn
from core.specs.composition import EncodingKind
from core.specs.weight_bits import Bits

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
PRUNABLE_KINDS = (*CONVOLUTIONS, "linear")

Criterion = Literal["l1", "l2", "lamp", "wanda", "fisher", "random"]
Ranking = Literal["global", "layer", "output"]
Share = Annotated[float, Field(gt=0, lt=1)]

# Bits of a mask for each weight at most: a bit a weight; few that stay cost less by the gaps between them.
_MASK_BITS = 1.0
_FLOAT_BITS = 32.0
# Criteria that look at what flows through the network.
_BY_DATA = frozenset({"wanda", "fisher"})


class MaskPruning(Spec):
    """What the methods have in common that leave shapes as they are and store only the weights that stay."""

    family: ClassVar[Family] = "prune"
    needs: ClassVar[Needs] = Needs(data=True, labels=False, training=False, synthetic=True)
    works_on: ClassVar[WorksOn] = "network"
    encodes: ClassVar[EncodingKind] = "masked"
    takes: ClassVar[frozenset[EncodingKind]] = frozenset(
        {"dense", "masked", "half", "affine_integer", "codebook", "log2", "binary"}
    )
    kinds: ClassVar[tuple[str, ...]] = PRUNABLE_KINDS

    keep: Share = Field(0.5, description="Share of the weights that stay, of those in all layers that are pruned.")
    criterion: Criterion = Field(
        "lamp",
        description="What is weak. l1, l2: small weights. lamp: squared weights as a share of those of the layer that "
        "are no smaller (arXiv 2010.07611). wanda: weights times the size of their inputs (arXiv 2306.11695). fisher: "
        "squared weights times how strongly the answers depend on them (arXiv 1611.06440), without labels. random: the "
        "control.",
    )
    ranking: Ranking = Field(
        "global",
        description="What is compared: all weights, those of a layer, or those of an output. The last two leave the "
        "same share everywhere.",
    )
    samples: int = Field(512, ge=1, le=100_000, description="Calibration samples for `wanda` and `fisher`, in samples.")
    layers: dict[str, Share] = Field({}, description="By name of a layer, the share of its weights that stays.")
    protect: tuple[str, ...] = Field((), description="Names of layers that keep all their weights.")

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if both := sorted(set(self.layers) & set(self.protect)):
            raise ValueError(f"layers and protect both name {', '.join(both)}")
        return self

    def calibration_samples(self) -> int:
        """None for criteria that look at the weights alone."""
        return self.samples if self.criterion in _BY_DATA else 0

    @property
    def compares_layers(self) -> bool:
        """Whether the weights of all layers are ranked together."""
        return self.ranking == "global"

    def share_of(self, layer: str) -> float:
        """The share of a layer's weights that stays, where layers are pruned each for itself."""
        return self.layers.get(layer, self.keep)

    def weight_bits(self, layer: LayerDescription) -> Bits:
        """Of floats under a mask: those that stay; which these are takes a bit a weight at most."""
        # By one ranking of all, a layer may lose everything but one weight, or nothing.
        alone = not self.compares_layers or layer.name in self.layers
        low, high = (self.share_of(layer.name),) * 2 if alone else (self.keep / 4, 1.0)
        return _FLOAT_BITS * low, min(_FLOAT_BITS * high + _MASK_BITS, _FLOAT_BITS + _MASK_BITS)

    def requires(self, description: ModelDescription) -> Capability:
        """Convolutions and linear layers that share their weight with no other; layers that are named must exist."""
        if description.mode == "onnx_only":
            return Capability(
                ok=False, why=f"The file could not be read as a network, so it cannot be pruned: {description.why}"
            )
        known = {layer.name for layer in description.layers}
        for field, named in (("layers", tuple(self.layers)), ("protect", self.protect)):
            if unknown := sorted(set(named) - known):
                return Capability(ok=False, why=f"{field} names no layer of this model: {', '.join(unknown)}.")
        shared = {layer.tied_to for layer in description.layers}
        names = {
            layer.name
            for layer in description.layers
            if self.takes_layer(layer) and layer.name not in shared and layer.tied_to is None
        }
        if useless := sorted(set(self.layers) - names):
            return Capability(
                ok=False, why=f"layers names what cannot be pruned, or shares its weight: {', '.join(useless)}."
            )
        chosen = tuple(layer.name for layer in description.layers if layer.name in names - set(self.protect))
        if not chosen:
            return Capability(ok=False, why=self.nothing_left(protected=bool(names)))
        return Capability(ok=True, layers=chosen)

    def takes_layer(self, layer: LayerDescription) -> bool:
        """Whether a layer has what the method removes."""
        return layer.kind in self.kinds

    def nothing_left(self, *, protected: bool) -> str:
        """Why no layer is pruned."""
        if protected:
            return "Every layer that could be pruned is protected."
        return f"No layer of a kind that {self.method} takes is there: {', '.join(self.kinds)}."


class WeightPruning(MaskPruning):
    """Fine-grained pruning: the weakest weights become zero, and the file holds only the others and where they are.

    The file gets smaller, not faster: onnxruntime has no kernel for such weights and makes floats of them when it loads
    the file. `finetune` after it wins quality back under the mask, and `quantize.codebook` stores what stays in few
    bits (Han et al. 2016, arXiv 1510.00149).
    """

    title: ClassVar[str] = "Pruning of weights"
    example: ClassVar[dict[str, object]] = {"method": "prune.weights", "keep": 0.5}

    method: Literal["prune.weights"] = "prune.weights"
    n: int | None = Field(
        None, ge=1, le=64, description="With `m`: of each m weights of an output that are stored in a row n stay."
    )
    m: int | None = Field(
        None,
        ge=2,
        le=64,
        description="With `n`, as 2 of 4 (arXiv 2104.08378); then `keep` is n/m and not asked for. Of a convolution "
        "the taps of each kernel lie in a row, then the next input's.",
    )
    block: tuple[Annotated[int, Field(ge=1, le=256)], Annotated[int, Field(ge=1, le=256)]] | None = Field(
        None, description="Outputs × inputs of the blocks that stay or go whole; a weight each where nothing is said."
    )

    @model_validator(mode="after")
    def _check_pattern(self) -> Self:
        if (self.n is None) != (self.m is None):
            raise ValueError("n and m belong together")
        if self.n is not None and self.m is not None:
            if self.n >= self.m:
                raise ValueError("n has to be less than m")
            if self.block is not None:
                raise ValueError("n of m and block exclude each other")
            # What was written down in full has the default too.
            if self.layers or self.keep != type(self).model_fields["keep"].default:
                raise ValueError("n of m says how many weights stay, so keep and layers cannot")
        return self

    @property
    def compares_layers(self) -> bool:
        """Not where each row has as many."""
        return super().compares_layers and self.n is None

    def share_of(self, layer: str) -> float:
        """Of n of m the same everywhere."""
        return super().share_of(layer) if self.n is None or self.m is None else self.n / self.m


class VectorPruning(MaskPruning):
    """Rows or columns inside of the kernels of convolutions become zero (Mao et al. 2017, arXiv 1705.08922, section 3).

    As with single weights the file gets smaller and not faster.
    """

    title: ClassVar[str] = "Pruning of vectors in kernels"
    example: ClassVar[dict[str, object]] = {"method": "prune.vectors", "keep": 0.5, "direction": "rows"}
    kinds: ClassVar[tuple[str, ...]] = ("conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d")

    method: Literal["prune.vectors"] = "prune.vectors"
    direction: Literal["rows", "columns"] = Field(
        "rows", description="rows: along the last axis of a kernel; columns: along the one before."
    )

    def takes_layer(self, layer: LayerDescription) -> bool:
        """Kernels of more than one vector."""
        return super().takes_layer(layer) and max(layer.weight_shape[2:], default=1) > 1


class KernelPruning(MaskPruning):
    """Whole kernels, each from one channel to another, become zero (Anwar et al. 2017, arXiv 1512.08571, section 2).

    The file gets smaller and not faster: shapes stay, and onnxruntime multiplies the zeros.
    """

    title: ClassVar[str] = "Pruning of kernels"
    example: ClassVar[dict[str, object]] = {"method": "prune.kernels", "keep": 0.5}
    kinds: ClassVar[tuple[str, ...]] = CONVOLUTIONS

    method: Literal["prune.kernels"] = "prune.kernels"

    def takes_layer(self, layer: LayerDescription) -> bool:
        """Kernels of more than one weight."""
        return super().takes_layer(layer) and max(layer.weight_shape[2:], default=1) > 1


ChannelCriterion = Literal["l1", "l2", "geometric_median", "fisher", "random"]
Cost = Literal["parameters", "macs", "bytes"]


class ChannelPruning(Spec):
    """Output channels, hidden units and attention heads are taken away: the network that is left is an ordinary one.

    What belongs together goes together, through sums, concatenations, norms, grouped convolutions and attention, and
    every weight that reads what goes loses its inputs. Costs are those of the exact shapes that are left. Without
    training, quality falls quickly; let `finetune` or `distill.logits` follow.
    """

    title: ClassVar[str] = "Pruning of channels"
    family: ClassVar[Family] = "prune"
    needs: ClassVar[Needs] = Needs(data=True, labels=False, training=False, synthetic=True)
    example: ClassVar[dict[str, object]] = {"method": "prune.channels", "keep": 0.5, "of": "macs"}
    works_on: ClassVar[WorksOn] = "network"

    method: Literal["prune.channels"] = "prune.channels"
    keep: Share = Field(0.5, description="Share of the costs that are left at most.")
    of: Cost = Field("macs", description="The costs: parameters, multiply-adds of one sample, or bytes of weights.")
    criterion: ChannelCriterion = Field(
        "fisher",
        description="What is weak. l1, l2: small weights. geometric_median: weights close to those of other channels "
        "(arXiv 1811.00250). fisher: the expected square of what the loss changes by without the channel, to first "
        "order, without labels (arXiv 1906.10771). random: the control.",
    )
    ranking: Literal["global", "layer"] = Field(
        "global", description="Whether all channels are compared, or each layer loses the same share."
    )
    least: Share = Field(
        0.1,
        description="Share of each group of channels that stays whatever they are worth, where `layers` says nothing.",
    )
    multiple: Literal["auto", "none"] = Field(
        "auto", description="auto: widths from 16 on are multiples of 4, from 32 on of 8, which kernels like."
    )
    samples: int = Field(512, ge=1, le=100_000, description="Calibration samples for `fisher`, in samples.")
    layers: dict[str, Share] = Field({}, description="By name of a layer, the share of its output channels that stays.")
    protect: tuple[str, ...] = Field((), description="Names of layers that keep all their output channels.")

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if both := sorted(set(self.layers) & set(self.protect)):
            raise ValueError(f"layers and protect both name {', '.join(both)}")
        return self

    def calibration_samples(self) -> int:
        """None for criteria that look at the weights alone."""
        return self.samples if self.criterion == "fisher" else 0

    def weight_bits(self, layer: LayerDescription) -> Bits:  # noqa: ARG002  of all layers together
        """Of the weights that a layer had: the share that is asked for, or a guess where other costs are."""
        low, high = (self.keep / 4, 1.0) if self.of == "macs" else (0.7 * self.keep, self.keep)
        return _FLOAT_BITS * low, _FLOAT_BITS * high

    def requires(self, description: ModelDescription) -> Capability:
        """A network with a layer of several outputs; layers that are named must exist."""
        if description.mode == "onnx_only":
            return Capability(
                ok=False, why=f"The file could not be read as a network, so it cannot be pruned: {description.why}"
            )
        known = {layer.name for layer in description.layers}
        for field, named in (("layers", tuple(self.layers)), ("protect", self.protect)):
            if unknown := sorted(set(named) - known):
                return Capability(ok=False, why=f"{field} names no layer of this model: {', '.join(unknown)}.")
        weighty = tuple(layer.name for layer in description.layers if layer.parameters)
        if len(weighty) < 2:
            return Capability(
                ok=False, why="Channels lie between two layers with weights, and this network has no two of them."
            )
        if not set(weighty) - set(self.protect):
            return Capability(ok=False, why="Every layer that could be pruned is protected.")
        return Capability(ok=True, layers=weighty)


class LayerPruning(Spec):
    """Whole residual blocks or transformer layers are left out, those first without which the answers change least.

    Every block is tried: what is left is an ordinary network of fewer layers. Let training follow.
    """

    title: ClassVar[str] = "Pruning of layers"
    family: ClassVar[Family] = "prune"
    needs: ClassVar[Needs] = Needs(data=True, labels=False, training=False, synthetic=True)
    example: ClassVar[dict[str, object]] = {"method": "prune.layers", "keep": 0.75}
    works_on: ClassVar[WorksOn] = "network"

    method: Literal["prune.layers"] = "prune.layers"
    keep: Share = Field(0.75, description="Share of the blocks that stays; at least one goes and one stays.")
    criterion: Literal["answers", "even"] = Field(
        "answers",
        description="answers: what the answers lose in signal to noise without the block, tried anew after each one "
        "that goes. even: spread over the depth (arXiv 1910.01108, section 3).",
    )
    samples: int = Field(256, ge=1, le=100_000, description="Samples of a trial, in samples.")
    protect: tuple[str, ...] = Field((), description="Names of blocks that stay, as the log and the plan have them.")

    def calibration_samples(self) -> int:
        """None where blocks are spread evenly."""
        return self.samples if self.criterion == "answers" else 0

    def requires(self, description: ModelDescription) -> Capability:
        """A network; whether it has blocks is seen in its graph."""
        if description.mode == "onnx_only":
            return Capability(
                ok=False, why=f"The file could not be read as a network, so it cannot be pruned: {description.why}"
            )
        weighty = tuple(layer.name for layer in description.layers if layer.parameters)
        if len(weighty) < 2:
            return Capability(ok=False, why="A network of one layer has no block that could be left out.")
        return Capability(ok=True, layers=weighty)

    def weight_bits(self, layer: LayerDescription) -> Bits:  # noqa: ARG002  of all layers together
        """Of the weights that a layer had, about the share that is asked for."""
        return _FLOAT_BITS * self.keep / 4, _FLOAT_BITS


PRUNE: tuple[type[Spec], ...] = (WeightPruning, VectorPruning, KernelPruning, ChannelPruning, LayerPruning)
