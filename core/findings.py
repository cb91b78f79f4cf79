"""The catalogue of findings: what a verdict can remark, with a stable code; `docs/findings.md` is generated from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from core.verdict import Finding, Severity


@dataclass(frozen=True, slots=True)
class FindingCode:
    """One row of the catalogue; `severity` is what a finding has unless it says otherwise."""

    code: str
    severity: Severity
    title: str
    explanation: str


_CODES = (
    # Limits
    FindingCode(
        "quality_limit_missed",
        "problem",
        "The quality fell by more than the limit",
        "`max_drop` is compared with the measured change on the evaluation split. Keep the worst layers in float, "
        "train after the step, or allow more.",
    ),
    FindingCode(
        "size_limit_missed",
        "problem",
        "The file is larger than the limit",
        "`max_bytes` is compared with the size of the delivered file on disk.",
    ),
    FindingCode(
        "latency_limit_missed",
        "problem",
        "The result is slower than the limit",
        "`max_latency_ms` is compared with the median latency at the first batch size.",
    ),
    FindingCode(
        "limit_within_noise",
        "advice",
        "The limit lies inside the interval of the measurement",
        "The measured value decides, but another sample of the data or another run could decide otherwise. More "
        "evaluation samples or a quieter machine make the interval smaller.",
    ),
    FindingCode(
        "limit_not_measured",
        "problem",
        "A limit could not be judged",
        "The figure that the limit is about could not be measured, so it cannot be said to hold.",
    ),
    # Gains that are none
    FindingCode(
        "slower_than_original",
        "problem",
        "The result is slower than the original",
        "The interval of the time ratio lies below 1, beyond the noise floor of the machine. Small layers, operators "
        "without an integer kernel and CPUs without 8-bit instructions are the usual reasons.",
    ),
    FindingCode(
        "no_measurable_change",
        "info",
        "A figure moved less than it scatters",
        "The difference is inside the spread of repeated runs, so it is no gain and no loss.",
    ),
    FindingCode(
        "noisy_host",
        "advice",
        "Other work disturbed the timing",
        "The original timed against itself differs by more than 10 %, so smaller changes of time cannot be seen. Run "
        "the job again on a quiet machine.",
    ),
    FindingCode(
        "file_grew",
        "problem",
        "The file is larger than the original",
        "Both files are compared without source paths, stack traces and sample inputs.",
    ),
    FindingCode(
        "xz_not_measured",
        "info",
        "A file was too large to be compressed by xz",
        "What xz makes of a file tells how much a download could still shrink. It takes minutes for each gigabyte, so "
        "it is left out for large files, and `bytes_xz` is null.",
    ),
    FindingCode(
        "kernel_workspace_dominates",
        "advice",
        "Less tensor memory is planned, but the process needs as much as before",
        "Some kernels take work space of their own; onnxruntime's 8-bit convolution takes 8 bytes for each tap of each "
        "output pixel. The finding names the convolution that takes the most, and says where that does not explain it.",
    ),
    FindingCode(
        "memory_grew",
        "advice",
        "The process needs more memory than before",
        "The peak of resident memory of a fresh process that loads and runs the file rose by more than its spread.",
    ),
    FindingCode(
        "conversion_overhead",
        "advice",
        "Much of the time goes into converting between float and integer",
        "QuantizeLinear and DequantizeLinear nodes take more than 15 % of the result's run time. Fewer changes between "
        "float and integer layers would make it faster.",
    ),
    FindingCode(
        "two_conditions",
        "info",
        "Why quantization made it faster, or did not",
        "Integers are faster under two conditions: the CPU multiplies them faster than floats (measured in the job, in "
        "the runtime, in products of two matrices and of a matrix by one row), and little time is lost around it "
        "(nodes that quantize and dequantize, other operators, products that stay float).",
    ),
    FindingCode(
        "runtime_chosen",
        "info",
        "Which runtime the figures are of, and how fast the others are",
        "With the target `auto` both files are timed in every runtime that is installed, interleaved; the result is "
        "told in the one that is fastest over all batch sizes, the original at each batch size where that is fastest.",
    ),
    FindingCode(
        "runtimes_differ",
        "advice",
        "The runtimes answer differently to the same file",
        "Kernels of another runtime may round elsewhere than the file says. The quality was measured in the runtime of "
        "the target; in another one it may be another.",
    ),
    # Quality
    FindingCode(
        "quality_drop_significant",
        "advice",
        "The quality fell, and not by chance",
        "A paired test on the same samples rejects at 5 % that original and result are equally good.",
    ),
    FindingCode(
        "no_evaluation_data",
        "advice",
        "The quality was not measured",
        "There is no evaluation split, or none could be used. Give labelled samples that nothing was chosen on.",
    ),
    FindingCode(
        "no_labels",
        "info",
        "The result is compared with the original only",
        "Without labels it can be said how often the answers agree, not which of the two is right.",
    ),
    FindingCode(
        "synthetic_data_only",
        "advice",
        "No data was given, so inputs were drawn",
        "Ranges were calibrated and answers compared on inputs that were drawn: random pixels where the model comes "
        "with a preprocessor for images; else normal noise, of the mean and deviation that constants or a batch norm "
        "at the input tell, or of mean 0 and deviation 1; random integers within the tables that they index. "
        "How good the result is on real samples is not known: give a data set, even one without labels.",
    ),
    FindingCode(
        "evaluation_small",
        "advice",
        "Few evaluation samples make wide intervals",
        "With n samples an accuracy is known to about ±1/√n.",
    ),
    FindingCode(
        "evaluation_overlaps_training",
        "advice",
        "Evaluation samples are also in another split",
        "Samples that were trained, calibrated or chosen on make the measured quality too good.",
    ),
    FindingCode(
        "calibration_too_small",
        "advice",
        "Few samples were used for calibration",
        "The ranges of activations are estimated from the calibration samples; a hundred or more are usual.",
    ),
    # Quantization
    FindingCode(
        "saturation_avoided",
        "info",
        "The 8-bit kernels of this CPU would overflow",
        "Without VNNI, pairs of products are added in 16 bits and clipped. Weights of 7 bits or unsigned weights "
        "avoid it.",
    ),
    FindingCode(
        "saturates_without_vnni",
        "info",
        "The file would lose accuracy on an older CPU",
        "This CPU has VNNI and computes exactly; one without it adds pairs of products in 16 bits and clips them.",
    ),
    FindingCode(
        "saturates_here",
        "problem",
        "The 8-bit kernels of this CPU overflow on this file",
        "The recipe forces full-range weights on a CPU without VNNI, which adds pairs of products in 16 bits and clips "
        "them. Let `saturation` be `auto`.",
    ),
    FindingCode(
        "float_overflow",
        "advice",
        "Weights are too large for 16-bit floats",
        "The largest number of float16 is 65,504. Layers with larger weights stay as they are; bfloat16 has the range "
        "of float32.",
    ),
    FindingCode(
        "float_underflow",
        "info",
        "Weights have become zero in 16-bit floats",
        "Of float16 magnitudes below about 3e-8 become zero, and those below 6.1e-5 lose bits. bfloat16 keeps them.",
    ),
    FindingCode(
        "layers_kept_float",
        "info",
        "Some layers were not compressed",
        "They were asked to stay, have no integer kernel, or lose more quality than the limit allows.",
    ),
    FindingCode(
        "bits_by_layer",
        "info",
        "Layers have different numbers of bits",
        "They were chosen so that what each layer costs alone adds up to the least within the budget. What was "
        "predicted so is compared with what the choice does on samples of the data, beside the same bits for all.",
    ),
    FindingCode(
        "equal_bits_kept",
        "info",
        "The same bits for all layers were better than different ones",
        "What layers cost together is not quite what each costs alone; the choice is compared with equal bits within "
        "the budget, and the better is kept.",
    ),
    FindingCode(
        "budget_missed",
        "problem",
        "The budget cannot be kept to",
        "The result takes the least that there is. Allow fewer bits, let fewer layers stay float, or raise the budget.",
    ),
    FindingCode(
        "weights_inside_float",
        "advice",
        "Weights inside of branches and loops were not compressed",
        "onnxruntime's quantizer makes integers of the main graph, and in dynamic mode of branches that hold their own "
        "weights; what they read from an outer graph, and operators without an integer form, stay as they are.",
    ),
    FindingCode(
        "pruning_goal_missed",
        "problem",
        "The network could not be made as small as was asked for",
        "Outputs, what is protected, and the least share of each layer stay whatever they are worth. Lower `least`, "
        "protect fewer layers, or leave out whole blocks.",
    ),
    FindingCode(
        "zeros_stored_dense",
        "advice",
        "Zero weights take as much room as others",
        "The file stores the weights densely, so zeros save bytes only after packing.",
    ),
    # Distillation
    FindingCode(
        "teacher_helped",
        "info",
        "The student became better with its teacher than alone",
        "Both students began with the same weights and were trained equally, and were compared on the same samples.",
    ),
    FindingCode(
        "teacher_did_not_help",
        "advice",
        "The student did not become better with its teacher",
        "Trained equally without the teacher it is as good, or better. Plain distillation is known to hurt "
        "students that are trained well: try the loss `dist`, another teacher, or `finetune`.",
    ),
    FindingCode(
        "nothing_to_learn",
        "advice",
        "No block differs from its original",
        "`distill.blocks` mends what earlier steps have changed; put it after them.",
    ),
    # Training
    FindingCode(
        "training_did_not_help",
        "advice",
        "The weights from before training were kept",
        "None of the trained weights were better on the validation split. Where validation was drawn from samples that "
        "the network was once trained on, it remembers them: give a validation split that it has never seen.",
    ),
    # Model
    FindingCode(
        "batch_fixed",
        "advice",
        "The model runs at one batch size only",
        "Its graph contains the batch size, so other sizes of the target could not be measured.",
    ),
)

CATALOGUE: Mapping[str, FindingCode] = MappingProxyType({entry.code: entry for entry in _CODES})


def make_finding(code: str, text: str, severity: Severity | None = None) -> Finding:
    """A finding with a code of `CATALOGUE` and one plain sentence with its numbers."""
    return Finding(code=code, severity=severity or CATALOGUE[code].severity, text=text)
