"""The task `inspect`: has a runner describe a waiting model or data set."""

from core.database.session import transaction
from core.messages import DatasetInspected, ErrorMessage, InspectDataset, InspectModel, ModelInspected
from core.services import inspections
from core.services.inspections import InspectionClaim
from core.settings import settings
from core.storage.blobs import open_blobs
from workers import presence
from workers.attend import Attendance, attend, deaf, give_back, staged_files, watch
from workers.ending import End, Outcome
from workers.failures import failure_of_answer
from workers.heart import boot_time
from workers.lines import Violation
from workers.staging import Run, staged
from workers.supervise import Ears, Limits


def inspect(subject_id: str) -> None:
    """Inspect one waiting model or data set, not necessarily `subject_id`; do nothing when none waits."""
    del subject_id
    if presence.draining.is_set():
        return
    since = boot_time()
    with transaction() as session:
        claim = inspections.claim(session, presence.WORKER_ID)
    if claim is not None:
        attend(claim.lease, since, fail=inspections.reject, work=lambda attendance: _work(attendance, claim))


def _work(attendance: Attendance, claim: InspectionClaim) -> None:
    limits = Limits(
        wall_seconds=settings().inspect_seconds,
        stall_seconds=settings().inspect_seconds,
        memory_bytes=settings().inspect_memory_bytes,
        disk_bytes=settings().scratch_bytes,
    )
    with staged(claim.files, open_blobs(settings().storage_url)) as run:
        outcome = watch(attendance, run, _request(claim, run), limits=limits, ears=Ears(deaf, attendance.order))
    _conclude(attendance, claim, outcome)


def _request(claim: InspectionClaim, run: Run) -> InspectModel | InspectDataset:
    files = staged_files(run, claim.files)
    return InspectModel(files=files) if claim.spec is None else InspectDataset(files=files, spec=claim.spec)


def _conclude(attendance: Attendance, claim: InspectionClaim, outcome: Outcome) -> None:
    lease, answer = attendance.lease, outcome.answer
    expected = ModelInspected if claim.spec is None else DatasetInspected
    if outcome.end is not End.ANSWERED:
        give_back(attendance, outcome)
    elif isinstance(answer, ErrorMessage):
        failure = failure_of_answer(answer)
        attendance.write(lambda session: inspections.reject(session, lease, failure))
    elif isinstance(answer, (ModelInspected, DatasetInspected)) and isinstance(answer, expected):
        description = answer.description
        attendance.write(lambda session: inspections.accept(session, lease, description))
    else:
        raise Violation("The runner answered another question than was asked.")
