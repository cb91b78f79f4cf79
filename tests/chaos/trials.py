"""The five trials: what is broken, and what must hold. Each gives the seconds that its promise is about.

Also run by `benchmarks/chaos.py`.
"""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

import psutil

from core.states import JobState
from tests.chaos.world import World, check_invariants, lives, script


def kill_worker(world: World) -> float:
    """A worker and its runner are killed in the middle of a step: another worker takes the job up."""
    job = world.submit(*script(6, 2.0 + 4 * world.clock))
    world.until(lambda: world.is_running(job), 30, "the job runs")
    world.runner_processes()
    first = world.row(job).epoch
    began = time.monotonic()
    world.kill(world.owner(job))
    world.until(lambda: world.row(job).epoch > first, 60, "another worker takes it up")
    # The start of an interpreter that follows is not ruled by the clock of the world.
    taken = time.monotonic() - began
    world.until(lambda: world.is_running(job), 60, "another worker goes on")
    world.runner_processes()
    world.until(lambda: world.ended(job), 60, "the job ends")
    row = world.row(job)
    assert (row.state, row.attempt, row.worker_losses) == (JobState.SUCCEEDED, 2, 1)
    return taken


def resume_job(world: World) -> float:
    """A worker is killed inside the second of two steps: another goes on from there, and repeats nothing."""
    first = [
        {"checkpoint": {"step": 0, "finished": True, "text": "after the first"}},
        {"say": {"kind": "metric", "name": "toy", "value": 1}},
        {"checkpoint": {"step": 1, "finished": False, "text": "inside the second"}},
        {"say": {"kind": "progress", "method": "toy", "fraction": 0.5}},
        {"sleep": 600},
    ]
    steps = {"steps": [{"method": "quantize.linear"}, {"method": "finetune"}]}
    job = world.submit({"tell_resume": 1}, {"unless_resumed": first}, *script(2, 0.2), asked={"recipe": steps})
    world.until(lambda: world.is_running(job) and len(world.checkpoints(job)) == 2, 30, "two checkpoints are kept")
    world.runner_processes()
    began = time.monotonic()
    world.kill(world.owner(job))
    world.until(lambda: world.ended(job), 60, "the job ends")
    row = world.row(job)
    assert (row.state, row.attempt, row.worker_losses) == (JobState.SUCCEEDED, 2, 1)
    said = {"job": job, "steps": 1, "finished": ["after the first"], "partial": ["inside the second"]}
    assert said in [json.loads(line) for line in world.log(job) if line.startswith("{")]
    assert [(kept.step, kept.finished) for kept in world.checkpoints(job)] == [(0, True)]
    return time.monotonic() - began


def flush_redis(world: World) -> float:
    """Redis forgets everything while jobs run and wait: none is lost, none is done twice."""
    waiting = [world.submit(*script(3, 0.6)) for _ in range(8)]
    world.until(lambda: any(world.is_running(job) for job in waiting), 30, "a job runs")
    began = time.monotonic()
    with world.broker().connection() as connection:
        connection.default_channel.client.flushdb()
    world.until(lambda: all(world.ended(job) for job in waiting), 120, "every job ends")
    for job in waiting:
        row = world.row(job)
        assert (row.state, row.attempt, row.worker_losses) == (JobState.SUCCEEDED, 1, 0)
    return time.monotonic() - began


def repeat_messages(world: World) -> float:
    """The same message fifty times while the job runs, to two workers: one attempt."""
    job = world.submit(*script(5, 2.0))
    began = time.monotonic()
    broker = world.broker()
    for _ in range(50):
        broker.send_task("run_job", args=[job])
    world.until(lambda: world.ended(job), 60, "the job ends")
    row = world.row(job)
    assert (row.state, row.attempt, row.epoch) == (JobState.SUCCEEDED, 1, 1)
    return time.monotonic() - began


def cancel_job(world: World) -> float:
    """A running job with children in sessions of their own is cancelled: all its processes are gone."""
    job = world.submit({"fork": 5}, {"say": {"kind": "progress", "method": "toy", "fraction": 0}}, {"spin": 1})
    world.until(lambda: world.is_running(job), 30, "the job runs")
    assert len(world.runner_processes()) >= 6
    began = time.monotonic()
    world.cancel(job)
    world.until(lambda: not world.orphans(), 30, "all processes are gone")
    taken = time.monotonic() - began
    world.until(lambda: world.ended(job), 30, "the job ends")
    assert world.row(job).state == JobState.CANCELLED
    return taken


def poison_worker(world: World) -> float:
    """A job that kills its runner each time fails after exactly three losses; others are not disturbed."""
    began = time.monotonic()
    job = world.submit({"say": {"kind": "progress", "method": "toy", "fraction": 0}}, {"signal": 9})
    others = [world.submit(*script(2, 0.2)) for _ in range(3)]
    world.until(lambda: world.ended(job), 60, "the job fails")
    row = world.row(job)
    assert (row.state, row.attempt, row.worker_losses) == (JobState.FAILED, 3, 3)
    assert row.error is not None
    assert row.error["code"] == "worker_lost"
    world.until(lambda: all(world.ended(other) for other in others), 60, "the others end")
    assert {world.row(other).state for other in others} == {JobState.SUCCEEDED}
    return time.monotonic() - began


def stop_worker(world: World) -> float:
    """A worker is told to stop while it works: it leaves in good order, and its job goes on without being charged."""
    job = world.submit(*script(6, 2.0))
    world.until(lambda: world.is_running(job), 30, "the job runs")
    world.runner_processes()
    worker, first = world.owner(job), world.row(job).epoch
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    world.until(lambda: worker.poll() is not None, 60, "the worker leaves")
    taken = time.monotonic() - began
    assert worker.returncode == 0
    world.until(lambda: world.ended(job), 60, "the job ends")
    row = world.row(job)
    assert (row.state, row.attempt, row.worker_losses) == (JobState.SUCCEEDED, 1, 0)
    assert row.epoch > first
    return taken


def freeze_worker(world: World) -> float:
    """A worker sleeps past its lease and wakes when another has its job: it kills its runner and writes nothing."""
    job = world.submit(*script(6, 1.5))
    world.until(lambda: world.is_running(job), 30, "the job runs")
    worker, first = world.owner(job), world.row(job).epoch
    frozen = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
    for process in frozen:
        process.send_signal(signal.SIGSTOP)
    world.until(lambda: world.row(job).epoch > first and world.is_running(job), 60, "another worker goes on")
    began = time.monotonic()
    for process in frozen:
        # The worker, awake first, may have killed the others already.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
    runner = frozen[1:]
    world.until(lambda: not any(map(lives, runner)), 30, "the old runner is gone")
    taken = time.monotonic() - began
    world.until(lambda: world.ended(job), 60, "the job ends")
    row = world.row(job)
    assert (row.state, row.attempt, row.worker_losses) == (JobState.SUCCEEDED, 2, 1)
    return taken


# The trial and the longest time that it may take in real time, in seconds; None where there is no such promise.
TRIALS: Mapping[Callable[[World], float], float | None] = MappingProxyType(
    {
        kill_worker: 45.0,
        resume_job: None,
        flush_redis: None,
        repeat_messages: None,
        cancel_job: 5.0,
        poison_worker: 180.0,
    }
)
# The same for what is not slowed by the clock.
OTHER_TRIALS: Mapping[Callable[[World], float], float] = MappingProxyType({stop_worker: 25.0, freeze_worker: 2.0})


def run_trial(trial: Callable[[World], float], world: World) -> float:
    """Run one trial and check that the invariants hold after it."""
    taken = trial(world)
    check_invariants(world)
    return taken
