import re

from sqlalchemy import text

from core.database.session import transaction
from core.services import attempts, system
from core.services.system import WorkerBeat
from tests.core.services.makers import make_job, make_model


def beat(name: str, **changes: object) -> None:
    facts = {"id": name, "kind": "compute", "host": "here", "pid": 7, "sandbox": "bwrap", **changes}
    with transaction() as session:
        system.beat(session, WorkerBeat(**facts))


def test_workers_show_their_signs_of_life(database: str) -> None:
    beat("one")
    with transaction() as session:
        session.execute(text("UPDATE workers SET heartbeat_at = now() - interval '1 h'"))
    beat("one", busy_with="job_x")
    beat("two", kind="inspect")
    with transaction() as session:
        shown = system.system(session)
        fresh = session.execute(text("SELECT count(*) FROM workers WHERE heartbeat_at > now() - interval '1 min'"))
        assert fresh.scalar() == 2
    assert [(worker.id, worker.busy_with) for worker in shown.workers] == [("one", "job_x"), ("two", None)]


def test_queues_and_jobs_are_counted(tenant: str) -> None:
    for _ in range(3):
        make_job(tenant)
    make_model(tenant, ready=False)
    with transaction() as session:
        attempts.claim(session, "one")
        shown = system.system(session)
    assert shown.jobs == {"queued": 2, "running": 1, "succeeded": 0, "failed": 0, "cancelled": 0}
    assert shown.queues == {"compute": 2, "inspect": 1, "deliver": 0}


def test_one_worker_without_a_sandbox_is_shown(database: str) -> None:
    beat("one")
    with transaction() as session:
        assert system.system(session).sandbox == "bwrap"
    beat("two", sandbox="none")
    with transaction() as session:
        assert system.system(session).sandbox == "none"


def test_workers_show_the_runtimes_that_they_measure_in(database: str) -> None:
    with transaction() as session:
        assert system.offered_runtimes(session) is None  # nobody has told
    beat("one", facts={"runtimes": {"onnxruntime": "1.32.0"}})
    beat("two", kind="dispatch")
    with transaction() as session:
        assert system.offered_runtimes(session) == {"onnxruntime"}
        assert [worker.runtimes for worker in system.system(session).workers] == [{"onnxruntime": "1.32.0"}, {}]
    beat("three", facts={"runtimes": {"onnxruntime": "1.32.0", "openvino": "2026.4.1"}})
    with transaction() as session:
        assert system.offered_runtimes(session) == {"onnxruntime", "openvino"}


def test_the_host_is_described(database: str) -> None:
    with transaction() as session:
        shown = system.system(session)
    assert shown.host.cores >= 1
    assert shown.host.memory_bytes > 2**28
    assert shown.host.cpu
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", shown.runtimes["onnxruntime"])
