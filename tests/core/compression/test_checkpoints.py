"""A job that goes on from a checkpoint ends with the bytes of one that was never interrupted."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from core.compression.checkpoints import CheckpointWriter, FileCheckpoint
from core.compression.pace import Pace
from core.compression.pipeline import run
from core.errors import ModelpressError
from core.messages import (
    CheckpointMessage,
    LogMessage,
    Message,
    ProgressMessage,
    Resume,
    RunJob,
    StagedFile,
    StepMessage,
)
from tests.core.compression.small_job import SmallJob, staged, write_small_job

SAME = ("model.onnx", "model.pt2", "model.safetensors", "plan.json", "recipe.json")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallJob:
    return write_small_job(tmp_path_factory.mktemp("small"))


def ask(small: SmallJob, work: Path, **changes: Any) -> RunJob:
    work.mkdir()
    return small.ask(work, {"method": "quantize.linear", "calibration": {"samples": 64}}, **changes)


def carry_out(small: SmallJob, work: Path, **changes: Any) -> list[Message]:
    told: list[Message] = []
    run(ask(small, work, **changes), told.append, work)
    return told


def files_of(work: Path, message: CheckpointMessage) -> tuple[StagedFile, ...]:
    return tuple(staged(work / "out" / file.path) for file in message.files)


@pytest.fixture(scope="module")
def straight(small: SmallJob, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Message]]:
    work = tmp_path_factory.mktemp("straight") / "work"
    return work, carry_out(small, work)


def checkpoint_of(straight: tuple[Path, list[Message]], job: str = "job_one") -> Resume:
    work, told = straight
    (message,) = (message for message in told if isinstance(message, CheckpointMessage))
    assert (message.step, message.finished) == (0, True)
    return Resume(job=job, steps=1, finished=files_of(work, message))


def taken_of(told: list[Message]) -> StepMessage:
    """What was told of the only step that was not done again."""
    steps = {message.name: message for message in told if isinstance(message, StepMessage)}
    assert [name for name in steps if not name.startswith("quantize.")] == ["prepare", "export", "measure"]
    (taken,) = (message for name, message in steps.items() if name.startswith("quantize."))
    assert not any(isinstance(message, CheckpointMessage) for message in told)
    return taken


def test_the_same_bytes_come_after_a_checkpoint(
    small: SmallJob, straight: tuple[Path, list[Message]], tmp_path: Path
) -> None:
    told = carry_out(small, tmp_path / "work", resume=checkpoint_of(straight))
    for name in SAME:
        assert (tmp_path / "work/out" / name).read_bytes() == (straight[0] / "out" / name).read_bytes(), name
    before = {message.name: message for message in straight[1] if isinstance(message, StepMessage)}
    taken = taken_of(told)
    assert (taken.seconds, taken.quality) == (before["quantize.linear"].seconds, before["quantize.linear"].quality)
    assert taken.message == ""
    kept = [line for line in (straight[0] / "out/log.txt").read_text().splitlines() if "quantize.linear" in line]
    assert set(kept) <= set((tmp_path / "work/out/log.txt").read_text().splitlines())


@pytest.mark.slow
def test_a_file_comes_back_as_well_as_a_network_and_from_another_job(small: SmallJob, tmp_path: Path) -> None:
    recipe = {"steps": [{"method": "quantize.onnx", "calibration": {"samples": 16}}]}
    straight = tmp_path / "straight", carry_out(small, tmp_path / "straight", recipe=recipe)
    told = carry_out(small, tmp_path / "work", recipe=recipe, resume=checkpoint_of(straight, "job_other"))
    for name in ("model.onnx", "plan.json"):
        assert (tmp_path / "work/out" / name).read_bytes() == (straight[0] / "out" / name).read_bytes(), name
    assert taken_of(told).message == "Taken from job_other"


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_read_means_starting_over(
    small: SmallJob, straight: tuple[Path, list[Message]], tmp_path: Path
) -> None:
    good = checkpoint_of(straight)
    broken = []
    for file in good.finished:
        path = tmp_path / file.filename
        path.write_bytes(Path(file.path).read_bytes()[:-40])
        broken.append(staged(path))
    told = carry_out(small, tmp_path / "work", resume=Resume(job="job_one", steps=1, finished=tuple(broken)))
    assert any("Starting over" in message.text for message in told if isinstance(message, LogMessage))
    assert (tmp_path / "work/out/model.onnx").read_bytes() == (straight[0] / "out/model.onnx").read_bytes()


@pytest.mark.parametrize("content", ["[]", "{", '{"versions": {}, "steps": [{"method": "prune.heads"}]}'])
def test_a_plan_of_something_else_is_refused(small: SmallJob, content: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(ModelpressError) as caught:
        carry_out(small, tmp_path / "work", plan=staged(path))
    assert (caught.value.code, caught.value.pointer) == ("invalid_request", "/plan")


THREE = {
    "steps": [
        {"method": "finetune", "steps": 12, "batch_size": 32, "early_stopping": 3},
        {"method": "quantize.linear", "calibration": {"samples": 64}},
        {"method": "finetune", "steps": 12, "batch_size": 32, "ema": 0.9},
    ]
}


class Interrupted(Exception):  # noqa: N818  (it says what happened)
    """The run ends in the middle of a step."""


class Supervisor:
    """Takes checkpoints as a supervisor does, and ends the run with the `most`-th inside, or at the end, of a step."""

    def __init__(self, work: Path, kept: Path, step: int, most: int | None) -> None:
        self.work, self.kept, self.step, self.left = work, kept, step, most
        self.count = 0
        self.resume: dict[bool, tuple[int, tuple[StagedFile, ...]]] = {}

    def hear(self, message: Message) -> None:
        if not isinstance(message, CheckpointMessage):
            return
        folder = self.kept / str(self.count)
        self.count += 1
        folder.mkdir(parents=True)
        for file in message.files:
            (self.work / "out" / file.path).rename(folder / file.filename)
        self.resume.pop(False, None)
        self.resume[message.finished] = (message.step, tuple(staged(path) for path in sorted(folder.iterdir())))
        if message.step == self.step:
            if self.left is None:
                if message.finished:
                    raise Interrupted
                return
            self.left -= not message.finished
            if not self.left:
                raise Interrupted

    def found(self) -> Resume:
        step, finished = self.resume.get(True, (-1, ()))
        partial = self.resume.get(False, (0, ()))[1]
        return Resume(job="job_one", steps=step + 1, finished=finished, partial=partial)


@pytest.mark.slow
def test_a_job_interrupted_in_every_step_gives_the_bytes_of_one_that_was_not(small: SmallJob, tmp_path: Path) -> None:
    """Ended inside the first training, then after it, then inside the second."""
    common = {"recipe": THREE, "checkpoint_seconds": 1e-3}
    carry_out(small, tmp_path / "straight", recipe=THREE)
    resume = None
    for number, (step, most) in enumerate(((0, 3), (0, None), (2, 3))):
        work = tmp_path / f"run{number}"
        request = ask(small, work, **common, resume=resume)
        supervisor = Supervisor(work, tmp_path / f"kept{number}", step, most)
        with pytest.raises(Interrupted):
            run(request, supervisor.hear, work)
        resume = supervisor.found()
    assert resume is not None
    assert resume.steps == 2
    assert resume.partial
    carry_out(small, tmp_path / "last", **common, resume=resume)
    for name in SAME:
        assert (tmp_path / "last/out" / name).read_bytes() == (tmp_path / "straight/out" / name).read_bytes(), name


@pytest.mark.slow
def test_a_plan_with_training_is_followed_to_the_same_bytes(small: SmallJob, tmp_path: Path) -> None:
    """The clock decided how many updates the training took; the plan says it, and what was calibrated after it."""
    minutes = {"steps": [{"method": "finetune", "minutes": 0.02}, THREE["steps"][1]]}
    carry_out(small, tmp_path / "first", recipe=minutes)
    carry_out(small, tmp_path / "again", recipe=minutes, plan=staged(tmp_path / "first/out/plan.json"))
    for name in SAME:
        assert (tmp_path / "again/out" / name).read_bytes() == (tmp_path / "first/out" / name).read_bytes(), name


class TestInsideAStep:
    def make(self, out: Path, seconds: float = 0) -> tuple[CheckpointWriter, list[Message]]:
        told: list[Message] = []
        return CheckpointWriter(out, told.append, seconds), told

    def test_what_was_kept_last_is_given_back(self, tmp_path: Path) -> None:
        writer, told = self.make(tmp_path)
        checkpoint = FileCheckpoint(writer, 2, None)
        assert checkpoint.restore() is None
        tied = torch.arange(6.0).reshape(2, 3)
        checkpoint.keep({"a": tied.t(), "b": tied}, {"rate": 0.1, "seen": [1, 2]})
        (message,) = told
        assert isinstance(message, CheckpointMessage)
        assert (message.step, message.finished) == (2, False)
        names = {file.filename: tmp_path / file.path for file in message.files}
        assert json.loads(names["state.json"].read_text()) == {"rate": 0.1, "seen": [1, 2]}
        assert set(names) == {"state.json", "state.safetensors"}

    def test_the_next_waits_for_its_time_and_for_the_last_to_be_taken(self, tmp_path: Path) -> None:
        writer, told = self.make(tmp_path)
        checkpoint = FileCheckpoint(writer, 0, None)
        assert checkpoint.due()
        checkpoint.keep({"a": torch.zeros(1)}, {})
        assert not checkpoint.due()
        (message,) = told
        assert isinstance(message, CheckpointMessage)
        for file in message.files:
            (tmp_path / file.path).unlink()
        assert checkpoint.due()
        assert not FileCheckpoint(self.make(tmp_path, seconds=1000)[0], 0, None).due()

    def test_a_state_that_cannot_be_written_is_told_and_no_more(self, tmp_path: Path) -> None:
        writer, told = self.make(tmp_path, seconds=1000)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        try:
            FileCheckpoint(writer, 1, None).keep({"a": torch.zeros(100_000)}, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        (message,) = told
        assert isinstance(message, LogMessage)
        assert message.text.startswith("No checkpoint inside step 2: ")
        assert not writer.is_due()
        assert list((tmp_path / "checkpoints").iterdir()) == []


def test_pace_tells_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("core.compression.pace.time.monotonic", lambda: now[0])
    pace = Pace()

    def at(seconds: float, fraction: float) -> ProgressMessage:
        now[0] = seconds
        return pace.tell(ProgressMessage(method="x", fraction=fraction))

    pace.begin((0.0, 0.2))
    assert at(0.5, 0.1).eta_seconds is None
    now[0] = 4.0
    pace.end()
    pace.begin((0.2, 0.6))
    assert at(4.0, 0.2).step_eta_seconds is None
    said = at(10.0, 0.3)
    assert said.step_fraction == pytest.approx(0.25)
    # A quarter took 6 seconds, and the rest of the job goes at 20 seconds for the whole of it.
    assert said.step_eta_seconds == pytest.approx(18)
    assert said.eta_seconds == pytest.approx(18 + 0.4 * 20)


def test_what_an_earlier_run_has_done_does_not_count_as_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("core.compression.pace.time.monotonic", lambda: now[0])
    pace = Pace()
    pace.begin((0.0, 1.0))
    told = []
    for now[0], fraction in ((2.0, 0.5), (12.0, 0.6)):
        told.append(pace.tell(ProgressMessage(method="x", fraction=fraction)).step_eta_seconds)
    # A tenth of the step took ten seconds.
    assert told == [None, pytest.approx(40)]
