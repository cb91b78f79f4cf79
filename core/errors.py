"""Every error that a user can meet: a stable code, a kind, a sentence, and what to do about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Kind(StrEnum):
    """What sort of thing went wrong; the API maps each kind to one HTTP status."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    NOT_ALLOWED = "not_allowed"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    RANGE = "range"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One row of the catalogue of errors, which `docs/errors.md` is generated from."""

    code: str
    kind: Kind
    title: str
    hint: str


_CODES = (
    # Requests
    ErrorCode("invalid_request", Kind.INVALID, "The request is not valid", "Correct the field that `pointer` names."),
    ErrorCode("not_found", Kind.NOT_FOUND, "There is no such object", "Check the id and that your key may see it."),
    ErrorCode("method_not_allowed", Kind.NOT_ALLOWED, "This is not possible here", "See the header `Allow`."),
    ErrorCode("unauthenticated", Kind.UNAUTHENTICATED, "This key is not valid", "Send `Authorization: Bearer mp_…`."),
    ErrorCode("forbidden", Kind.FORBIDDEN, "The key lacks the scope", "Make a key that has the scope named."),
    ErrorCode("csrf_failed", Kind.FORBIDDEN, "The form is not from this site", "Reload the page and send it again."),
    ErrorCode("conflict", Kind.CONFLICT, "The object is not in a state that allows this", "Read the object again."),
    ErrorCode(
        "idempotency_conflict", Kind.INVALID, "The key was used for another request", "Use a new Idempotency-Key."
    ),
    ErrorCode("idempotency_in_flight", Kind.CONFLICT, "The first request still runs", "Send it again in a second."),
    ErrorCode("too_large", Kind.TOO_LARGE, "The upload is larger than allowed", "Raise MAX_UPLOAD_BYTES or send less."),
    ErrorCode("digest_mismatch", Kind.INVALID, "The bytes do not match their digest", "Upload the file again."),
    ErrorCode("range_not_satisfiable", Kind.RANGE, "The range is outside the file", "Ask for a range inside the file."),
    ErrorCode("no_space", Kind.UNAVAILABLE, "The disk is full", "Free space on the server and try again."),
    ErrorCode("unavailable", Kind.UNAVAILABLE, "The service cannot answer now", "Try again after `Retry-After`."),
    ErrorCode("internal", Kind.INTERNAL, "Something failed on our side", "Report it with the request id."),
    ErrorCode("invalid_webhook_url", Kind.INVALID, "The webhook address is not allowed", "Use a public https address."),
    ErrorCode("model_not_ready", Kind.CONFLICT, "The model is not ready", "Wait until its state is `ready`."),
    ErrorCode("dataset_not_ready", Kind.CONFLICT, "The data set is not ready", "Wait until its state is `ready`."),
    ErrorCode(
        "method_not_applicable", Kind.INVALID, "The method does not fit this model", "See the model's capabilities."
    ),
    # Model files
    ErrorCode(
        "unknown_format", Kind.INVALID, "The file is no format that is read here", "Export the model to ONNX or .pt2."
    ),
    ErrorCode(
        "unsafe_file", Kind.INVALID, "The file could run code when it is opened", "Export it again without pickles."
    ),
    ErrorCode("corrupt_file", Kind.INVALID, "The file is damaged", "Upload it again, or export it again."),
    ErrorCode(
        "unsupported_version", Kind.INVALID, "The file is of a version not read here", "Export it with torch 2.13."
    ),
    ErrorCode(
        "unsupported_operator", Kind.INVALID, "An operator of the graph is not supported", "Remove or replace the node."
    ),
    ErrorCode("unsupported_graph", Kind.INVALID, "The graph cannot be read", "See the node and the detail."),
    ErrorCode(
        "graph_too_large", Kind.INVALID, "The graph makes something too large", "See the node; make its sizes smaller."
    ),
    ErrorCode(
        "external_data", Kind.INVALID, "The weights are in another file", "Upload it with the model, or save one file."
    ),
    ErrorCode(
        "parity_lost", Kind.INVALID, "Our network computes something else than the file", "Report it with the node."
    ),
    ErrorCode(
        "non_finite", Kind.INVALID, "The network gives NaN or infinity", "Check the weights and the input range."
    ),
    # Data
    ErrorCode("invalid_data", Kind.INVALID, "The data cannot be used", "See the row and the reason."),
    # Jobs
    ErrorCode("unsupported_layer", Kind.INVALID, "A layer cannot be compressed like this", "Leave the layer out."),
    ErrorCode("missing_data", Kind.INVALID, "The recipe needs data", "Give a data set with the job."),
    ErrorCode(
        "quantizer_failed",
        Kind.INVALID,
        "onnxruntime's quantizer cannot take this file",
        "Try the mode `dynamic`, or name the layers in `keep_float`.",
    ),
    ErrorCode(
        "training_diverged",
        Kind.INVALID,
        "The loss became infinite or NaN",
        "Give a smaller `lr`, or a `clip` above 0.",
    ),
    ErrorCode("export_disagrees", Kind.INTERNAL, "The written file computes something else", "Report it with the job."),
    ErrorCode("runtime_failed", Kind.INTERNAL, "The runtime cannot run the file", "Report it with the detail."),
    ErrorCode(
        "runtime_missing",
        Kind.INVALID,
        "The runtime of the target is not installed",
        "Install the extra `openvino` on the workers, or let `target.runtime` be `onnxruntime-cpu` or `auto`.",
    ),
    ErrorCode(
        "out_of_memory",
        Kind.INVALID,
        "The job ran out of memory",
        "Raise `limits.memory_bytes`, or for an inspection the service's setting `MODELPRESS_INSPECT_MEMORY_BYTES`.",
    ),
    ErrorCode("timed_out", Kind.INVALID, "The job ran out of time", "Raise `limits.minutes`."),
    ErrorCode("stalled", Kind.INTERNAL, "The job made no progress", "Retry; report it if it comes back."),
    ErrorCode("worker_lost", Kind.INTERNAL, "The worker died three times on this job", "Retry on another machine."),
    ErrorCode("protocol_violation", Kind.INTERNAL, "The runner said something impossible", "Report it with the job."),
    ErrorCode("sandbox_unavailable", Kind.UNAVAILABLE, "No sandbox can be made here", "Allow user namespaces."),
)

CATALOGUE: Mapping[str, ErrorCode] = MappingProxyType({entry.code: entry for entry in _CODES})


class ModelpressError(Exception):
    """An error with a code of `CATALOGUE` and a sentence that a stranger can act on.

    `pointer` is a JSON pointer into the request, `node` names the offending node of an uploaded graph, `layer` and
    `step` say where in a job it happened.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        hint: str | None = None,
        pointer: str | None = None,
        node: str | None = None,
        layer: str | None = None,
        step: str | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(detail)
        self.entry = CATALOGUE[code]
        self.detail = detail
        self.hint = hint or self.entry.hint
        self.pointer = pointer
        self.node = node
        self.layer = layer
        self.step = step
        self.retryable = retryable

    @property
    def code(self) -> str:
        """The stable code, a key of `CATALOGUE`."""
        return self.entry.code
