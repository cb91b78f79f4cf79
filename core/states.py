"""The states of a model, data set, job, step and delivery, as tables of allowed moves (ADR 0006)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class InspectionState(StrEnum):
    """Of a model or a data set."""

    INSPECTING = "inspecting"
    READY = "ready"
    REJECTED = "rejected"
    DELETED = "deleted"


class JobState(StrEnum):
    """Of a job; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepState(StrEnum):
    """Of one step of a job."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"


class DeliveryState(StrEnum):
    """Of one delivery of a webhook."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


INSPECTION_MOVES: Mapping[InspectionState, frozenset[InspectionState]] = {
    InspectionState.INSPECTING: frozenset({InspectionState.READY, InspectionState.REJECTED, InspectionState.DELETED}),
    InspectionState.READY: frozenset({InspectionState.DELETED, InspectionState.INSPECTING}),
    InspectionState.REJECTED: frozenset({InspectionState.DELETED, InspectionState.INSPECTING}),
    InspectionState.DELETED: frozenset(),
}

JOB_MOVES: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    # Back to queued is what happens when an attempt is lost.
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

DELIVERY_MOVES: Mapping[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.PENDING: frozenset({DeliveryState.DELIVERED, DeliveryState.FAILED}),
    DeliveryState.DELIVERED: frozenset({DeliveryState.PENDING}),
    DeliveryState.FAILED: frozenset({DeliveryState.PENDING}),
}

TERMINAL = frozenset(state for state, moves in JOB_MOVES.items() if not moves)


S = TypeVar("S", bound=StrEnum)


def sources(moves: Mapping[S, frozenset[S]], target: S) -> frozenset[S]:
    """The states from which `target` may be reached; what an UPDATE's WHERE clause allows."""
    return frozenset(source for source, targets in moves.items() if target in targets)
