"""The verdict of a job: original against result, measured on the files themselves.

The runner writes it, the database keeps it, the API shows it: one class for all three.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Severity = Literal["problem", "advice", "info"]


class Shown(BaseModel):
    """Base of what is shown to users: frozen, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Quality(Shown):
    """A quality metric with its 95 % interval. Without labels the metric compares with the original."""

    metric: str
    value: float
    higher_is_better: bool
    low: float
    high: float
    n: int
    split: str


class Latency(Shown):
    """Latency of one call at one batch size, in milliseconds."""

    batch: int
    median_ms: float
    p95_ms: float
    runs: int
    low_ms: float
    high_ms: float
    histogram: tuple[tuple[float, int], ...] = Field((), description="Left edge in ms and count of each bin.")
    runtime: str = Field("", description="Name and version of the runtime that was timed.")


class Measured(Shown):
    """What was measured of one file."""

    bytes: int
    bytes_stripped: int
    bytes_xz: int | None = Field(description="Null for files that are too large to compress; a finding says so.")
    parameters: int
    macs: int
    planned_activation_bytes: int
    peak_rss_bytes: int
    load_ms: float
    quality: Quality | None
    latency: tuple[Latency, ...]


class QualityChange(Shown):
    """The paired difference of quality, result minus original, with its 95 % interval and the test used."""

    delta: float
    low: float
    high: float
    p: float
    test: Literal["mcnemar", "bootstrap", "none"]
    lost: int | None = None
    gained: int | None = None
    agreement: float | None = None


class Speedup(Shown):
    """Original time over result time at one batch size; `significant` when it exceeds the noise floor."""

    batch: int
    ratio: float
    low: float
    high: float
    significant: bool


class Change(Shown):
    """How the result differs from the original; ratios are original over result."""

    size_ratio: float
    size_ratio_fp16: float
    quality: QualityChange | None
    speedup: tuple[Speedup, ...]
    activation_ratio: float
    sqnr_db: float | None = None


class ItemisedBytes(Shown):
    """Where the bytes of the delivered file are; the items sum to the file exactly."""

    weights: int = 0
    biases: int = 0
    scales: int = 0
    codebooks: int = 0
    indices: int = 0
    graph: int = 0


class CurvePoint(Shown):
    """What pruning one layer costs where a share of it is kept; no increase where the loss is no number."""

    kept: float
    loss_increase: float | None


class Sensitivity(Shown):
    """What compressing only this layer costs: increase of the loss, and signal to noise of the output in dB."""

    loss_increase: float | None = None
    sqnr_db: float | None = None
    curve: tuple[CurvePoint, ...] = Field((), description="Of a pruned layer the increase at shares that are kept.")

    def increase_at(self, share: float) -> float | None:
        """The increase of the loss at a share of the curve; None where it has none."""
        return next((point.loss_increase for point in self.curve if point.kept == share), None)


class LayerVerdict(Shown):
    """What became of one layer, in bytes, encoding, sensitivity and share of the run time."""

    name: str
    kind: str
    encoding: str
    shape: str = Field(description="The weight's shape in the result.")
    shape_before: str = Field("", description="Its shape in the original where that is another one.")
    sensitivity: Sensitivity
    bytes_before: int
    bytes: int
    share_of_time: float | None = None

    @property
    def is_pruned(self) -> bool:
        """Whether its shape is another one, or a curve says what pruning it costs."""
        return bool(self.shape_before or self.sensitivity.curve)

    @property
    def shapes(self) -> str:
        """The shape, or the one before and the one after."""
        return f"{self.shape_before} → {self.shape}" if self.shape_before else self.shape


class Finding(Shown):
    """One plain sentence with a stable code of the catalogue of findings."""

    code: str
    severity: Severity
    text: str


class Conditions(Shown):
    """What the figures were measured under."""

    runtime: str
    threads: int
    cpu: str
    flags: tuple[str, ...]
    host_class: str
    interleaved: bool
    noise_floor: float
    rss_spread_bytes: int = 0


class PeakRatio(Shown):
    """How much faster this CPU multiplies 8-bit integers than floats in the result's runtime; least and most seen."""

    ratio: float
    low: float
    high: float


class SpeedLimit(Shown):
    """The speed-up at one batch size that the arithmetic allows, and how much of it was reached.

    `ceiling` counts every multiplication as if it were one of integers, `attainable` those that really are.
    """

    batch: int
    ceiling: float
    attainable: float
    reached: float = Field(description="Measured speed-up over `ceiling`.")


class TwoConditions(Shown):
    """What decides whether quantization makes a network faster: faster arithmetic, and little time lost around it."""

    gemm: PeakRatio
    gemv: PeakRatio
    integer_macs: float = Field(description="Share of multiply-accumulates that integer kernels do.")
    conversion_share: float = Field(description="Share of the result's time in quantizing and dequantizing nodes.")
    integer_time: float = Field(
        0.0, description="Share of the result's time in integer kernels, at the first batch size."
    )
    integer_rate: float = Field(0.0, description="Speed of those kernels as a share of the peak of integers.")
    limits: tuple[SpeedLimit, ...]


class Reproduce(Shown):
    """All that is needed to make the same file again."""

    recipe_sha256: str
    plan: str | None
    seed: int
    versions: dict[str, str]
    artifact_sha256: str


class Verdict(Shown):
    """The comparison original against result of a job, and the findings that explain it."""

    satisfied: bool
    sentence: str
    original: Measured
    result: Measured
    change: Change
    itemised_bytes: ItemisedBytes
    layers: tuple[LayerVerdict, ...]
    findings: tuple[Finding, ...]
    two_conditions: TwoConditions | None = Field(None, description="Null where nothing computes in integers.")
    conditions: Conditions
    reproduce: Reproduce

    @property
    def pruned_layers(self) -> tuple[LayerVerdict, ...]:
        """The layers that a table of what was pruned is about, in the order of the network."""
        return tuple(layer for layer in self.layers if layer.is_pruned)

    @property
    def kept_shares(self) -> tuple[float, ...]:
        """The shares at which curves have points, falling; none where no layer has a curve."""
        return tuple(sorted({point.kept for layer in self.layers for point in layer.sensitivity.curve}, reverse=True))
