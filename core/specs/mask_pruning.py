"""The specs of `prune.weights`, `.vectors` and `.kernels`: the weak become zero, the rest is stored under a mask."""

from collections.abc import Collection
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from core.description import LayerDescription, ModelDescription
from core.specs.base import Capability
from core.specs.budgets import MaskBudget, Share
from core.specs.composition import EncodingKind
from core.specs.named_layers import list_alone, tell_unknown
from core.specs.pruning import Pruning
from core.specs.weight_bits import FLOAT, Bits

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
PRUNABLE_KINDS = (*CONVOLUTIONS, "linear")

Criterion = Literal["l1", "l2", "lamp", "wanda", "fisher", "taylor", "random"]
Ranking = Literal["global", "layer", "output"]
Update = Literal["auto", "optimal_brain", "none"]

# Bits of a mask for each weight at most: a bit a weight; few that stay cost less by the gaps between them.
_MASK_BITS = 1.0
# Of what a budget leaves that says nothing of its share, a guess.
_LEAST = 0.04
# Criteria that look at what flows through the network.
_BY_DATA = frozenset({"wanda", "fisher", "taylor"})
# Criteria that guess what a layer's outputs lose without a weight: others, of the loss or of chance, say more or less.
_BY_SIZE = frozenset({"l1", "l2", "lamp", "wanda"})


def unreadable(description: ModelDescription) -> Capability:
    """Why nothing of a model in mode `onnx_only` is pruned."""
    why = f"The file could not be read as a network, so it cannot be pruned: {description.why}"
    return Capability(ok=False, why=why)


def refuse_both(layers: Collection[str], protect: Collection[str]) -> None:
    """Raises ValueError for names of layers that are both to be pruned and to be left."""
    if both := sorted(set(layers) & set(protect)):
        raise ValueError(f"layers and protect both name {', '.join(both)}")


class MaskPruning(Pruning):
    """What the methods have in common that leave shapes as they are and store only the weights that stay."""

    encodes: ClassVar[EncodingKind] = "masked"
    takes: ClassVar[frozenset[EncodingKind]] = frozenset(
        {"dense", "masked", "half", "affine_integer", "codebook", "log2", "binary"}
    )
    kinds: ClassVar[tuple[str, ...]] = PRUNABLE_KINDS

    keep: MaskBudget = Field(MaskBudget(weights=0.5), description="What may stay; a bare number is a share of weights.")
    criterion: Criterion = Field(
        "lamp",
        description="What is weak. l1, l2: small weights. lamp: squared weights as a share of those of the layer that "
        "are no smaller (arXiv 2010.07611). wanda: weights times the size of their inputs (arXiv 2306.11695). fisher: "
        "squared weights times how strongly the answers depend on them (arXiv 1611.06440), without labels; taylor: the "
        "expected square of what the loss changes by without them, to first order, with labels (arXiv 1906.10771). "
        "random: the control.",
    )
    ranking: Ranking = Field(
        "global",
        description="What is compared: all weights, those of a layer, or those of an output. The last two leave the "
        "same share everywhere.",
    )
    update: Update = Field(
        "auto",
        description="What makes up for the weights that go, without labels. optimal_brain: those that stay, and the "
        "biases, are fitted layer by layer to give what the layer gave (arXiv 2208.11580); of l1, l2, lamp and wanda "
        "it then follows how many weights of each layer stay, and from the fit which (not for a budget of bytes). "
        "Weights that are no floats any more keep their values. none: all keep theirs. auto: optimal_brain where there "
        "are calibration samples.",
    )
    samples: int = Field(
        512,
        ge=1,
        le=100_000,
        description="Calibration samples for `wanda`, `fisher`, `taylor` and `update`, in samples.",
    )
    layers: dict[str, Share] = Field({}, description="By name of a layer, the share of its weights that stays.")
    protect: tuple[str, ...] = Field((), description="Names of layers that keep all their weights.")

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        refuse_both(self.layers, self.protect)
        return self

    def ranking_samples(self) -> int:
        """None where the weights alone are looked at, or samples are taken if there are some."""
        return self.samples if self.criterion in _BY_DATA or self.update == "optimal_brain" else 0

    def needs_labels(self) -> bool:
        """Of the criterion, and of training in rounds."""
        return self.criterion == "taylor" or super().needs_labels()

    @property
    def chooses_anew(self) -> bool:
        """Whether an update says which weights of a layer stay; what a mask takes in bytes changes with it."""
        return self.criterion in _BY_SIZE and self.keep.measure != "bytes"

    @property
    def compares_layers(self) -> bool:
        """Whether the weights of all layers are ranked together."""
        return self.ranking == "global"

    def fixed_share(self, layer: str) -> float | None:
        """The share of a layer's weights that stays whatever the budget; None where the budget decides."""
        return self.layers.get(layer)

    def weight_bits(self, layer: LayerDescription) -> Bits:
        """Of floats under a mask: those that stay; which these are takes a bit a weight at most."""
        fixed = self.fixed_share(layer.name)
        if fixed is None and not self.compares_layers:
            fixed = self.keep.weights
        # By one ranking of all, a layer may lose everything but one weight, or nothing.
        low, high = ((self.keep.share or _LEAST) / 4, 1.0) if fixed is None else (fixed, fixed)
        return FLOAT * low, min(FLOAT * high + _MASK_BITS, FLOAT + _MASK_BITS)

    def requires(self, description: ModelDescription) -> Capability:
        """Convolutions and linear layers that share their weight with no other; layers that are named must exist."""
        if description.mode == "onnx_only":
            return unreadable(description)
        if why := tell_unknown(description, layers=self.layers, protect=self.protect):
            return Capability(ok=False, why=why)
        names = list_alone(description, self.takes_layer)
        if useless := sorted(set(self.layers) - set(names)):
            return Capability(
                ok=False, why=f"layers names what cannot be pruned, or shares its weight: {', '.join(useless)}."
            )
        chosen = tuple(name for name in names if name not in self.protect)
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

    def fixed_share(self, layer: str) -> float | None:
        """Of n of m the same everywhere."""
        return super().fixed_share(layer) if self.n is None or self.m is None else self.n / self.m


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
