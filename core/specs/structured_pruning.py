"""The specs of `prune.channels` and `prune.layers`: what is left is an ordinary network that is smaller."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from core.description import LayerDescription, ModelDescription
from core.specs.base import Capability
from core.specs.budgets import BlockBudget, ChannelBudget, Share
from core.specs.mask_pruning import refuse_both, unreadable
from core.specs.named_layers import tell_unknown
from core.specs.pruning import Pruning
from core.specs.weight_bits import FLOAT, Bits

ChannelCriterion = Literal["l1", "l2", "geometric_median", "batch_norm_scale", "fisher", "taylor", "random"]
Correction = Literal["least_squares", "statistics"]
Compensation = Literal["auto", "least_squares", "statistics", "none"]

NO_NORMS = (
    "No batch norm is left whose scales could tell channels apart: files in ONNX have theirs folded into the layers "
    "before, and so has a network that is read. Take the criterion l2, which sees those scales in the weights."
)


class ChannelPruning(Pruning):
    """Output channels, hidden units and attention heads are taken away: the network that is left is an ordinary one.

    What belongs together goes together, through sums, concatenations, norms, grouped convolutions and attention, and
    every weight that reads what goes loses its inputs. Costs are those of the exact shapes that are left. Without
    training, quality falls quickly; let `finetune` or `distill.logits` follow.
    """

    title: ClassVar[str] = "Pruning of channels"
    example: ClassVar[dict[str, object]] = {"method": "prune.channels", "keep": {"macs": 0.5}}

    method: Literal["prune.channels"] = "prune.channels"
    keep: ChannelBudget = Field(
        ChannelBudget(macs=0.5), description="What may be left at most; a bare number is a share of the multiply-adds."
    )
    criterion: ChannelCriterion = Field(
        "fisher",
        description="What is weak. l1, l2: small weights. geometric_median: weights close to those of other channels "
        "(arXiv 1811.00250). batch_norm_scale: small scales of batch norms, where some are left (arXiv 1708.06519). "
        "fisher: the expected square of what the loss changes by without the channel, to first order, without labels; "
        "taylor: the same with labels (arXiv 1906.10771). random: the control.",
    )
    ranking: Literal["auto", "global", "layer"] = Field(
        "auto",
        description="global: all channels are compared, by what the loss is for what they cost where the criterion "
        "measures a loss. layer: each layer loses the same share. auto: both and widths between them are tried, and "
        "those taken whose answers are nearest to the original's; global where there are no samples or no time.",
    )
    least: Share = Field(
        0.1,
        description="Share of each group of channels that stays whatever they are worth, where `layers` says nothing.",
    )
    multiple: Literal["auto", "none"] = Field(
        "auto",
        description="auto: widths from 16 on are multiples of 4, from 32 on of 8, which kernels like. Of a budget of "
        "time it is the widths that are measured to save some.",
    )
    compensate: Compensation = Field(
        "auto",
        description="What makes up for the cut, without labels. least_squares: layers that lost inputs are fitted to "
        "the outputs that they had (arXiv 1707.06168). statistics: batch norms are estimated anew, and where there are "
        "none, layers get the means and deviations that they had. auto: both, one after the other. Each stays only if "
        "the answers come nearer to the original's, on samples that it has not seen.",
    )
    samples: int = Field(
        512,
        ge=1,
        le=100_000,
        description="Calibration samples for the criteria fisher and taylor, `ranking` and `compensate`, in samples.",
    )
    layers: dict[str, Share] = Field({}, description="By name of a layer, the share of its output channels that stays.")
    protect: tuple[str, ...] = Field((), description="Names of layers that keep all their output channels.")

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        refuse_both(self.layers, self.protect)
        return self

    @property
    def by_answers(self) -> bool:
        """Whether the criterion estimates what the loss changes by."""
        return self.criterion in ("fisher", "taylor")

    def ranking_samples(self) -> int:
        """None where the weights alone are looked at."""
        return self.samples if self.by_answers or self.compensate != "none" or self.ranking == "auto" else 0

    def needs_labels(self) -> bool:
        """Of the criterion, and of training in rounds."""
        return self.criterion == "taylor" or super().needs_labels()

    def weight_bits(self, layer: LayerDescription) -> Bits:  # noqa: ARG002  of all layers together
        """Of the weights that a layer had: the share that is asked for, or a guess where other costs are."""
        share = self.keep.share
        if share is not None and self.keep.measure in ("parameters", "bytes"):
            return FLOAT * 0.7 * share, FLOAT * share
        return FLOAT * (share or self.least) / 4, FLOAT

    def requires(self, description: ModelDescription) -> Capability:
        """A network with a layer of several outputs; layers that are named must exist."""
        if description.mode == "onnx_only":
            return unreadable(description)
        if why := tell_unknown(description, layers=self.layers, protect=self.protect):
            return Capability(ok=False, why=why)
        weighty = tuple(layer.name for layer in description.layers if layer.parameters)
        if len(weighty) < 2:
            return Capability(
                ok=False, why="Channels lie between two layers with weights, and this network has no two of them."
            )
        if not set(weighty) - set(self.protect):
            return Capability(ok=False, why="Every layer that could be pruned is protected.")
        if self.criterion == "batch_norm_scale" and not any(layer.kind == "batch_norm" for layer in description.layers):
            return Capability(ok=False, why=NO_NORMS)
        return Capability(ok=True, layers=weighty)


class LayerPruning(Pruning):
    """Whole residual blocks or transformer layers are left out, those first without which the answers change least.

    Every block is tried: what is left is an ordinary network of fewer layers. Let training follow.
    """

    title: ClassVar[str] = "Pruning of layers"
    example: ClassVar[dict[str, object]] = {"method": "prune.layers", "keep": 0.75}

    method: Literal["prune.layers"] = "prune.layers"
    keep: BlockBudget = Field(
        BlockBudget(blocks=0.75), description="What may be left at most; a bare number is a share of the blocks."
    )
    criterion: Literal["answers", "even"] = Field(
        "answers",
        description="answers: what the answers lose in signal to noise without the block, tried anew after each one "
        "that goes. even: spread over the depth (arXiv 1910.01108, section 3).",
    )
    samples: int = Field(256, ge=1, le=100_000, description="Samples of a trial, in samples.")
    protect: tuple[str, ...] = Field((), description="Names of blocks that stay, as the log and the plan have them.")

    def ranking_samples(self) -> int:
        """None where blocks are spread evenly."""
        return self.samples if self.criterion == "answers" else 0

    def requires(self, description: ModelDescription) -> Capability:
        """A network; whether it has blocks is seen in its graph."""
        if description.mode == "onnx_only":
            return unreadable(description)
        weighty = tuple(layer.name for layer in description.layers if layer.parameters)
        if len(weighty) < 2:
            return Capability(ok=False, why="A network of one layer has no block that could be left out.")
        return Capability(ok=True, layers=weighty)

    def weight_bits(self, layer: LayerDescription) -> Bits:  # noqa: ARG002  of all layers together
        """Of the weights that a layer had, about the share that is asked for."""
        return FLOAT * (self.keep.share or 0.1) / 4, FLOAT
