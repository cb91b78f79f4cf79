import signal
from pathlib import Path

import psutil
import pytest

from core.messages import ArtifactMessage, JobDone, LogMessage, Message, ProgressMessage
from tests.workers.conftest import LIMITS, Stage, toy_processes
from workers.ending import End
from workers.supervise import Limits


def limits(**changed: float) -> Limits:
    return Limits(**{**LIMITS.__dict__, **changed})


class TestAnswers:
    def test_messages_are_heard_in_order_and_the_answer_is_kept(self, stage: Stage) -> None:
        outcome = stage.run(
            {"say": {"kind": "progress", "method": "toy", "fraction": 0.5}},
            {"say": {"kind": "log", "text": "half\u0000way"}},
            {"done": 1},
        )
        assert outcome.end is End.ANSWERED
        assert isinstance(outcome.answer, JobDone)
        assert [type(message) for message in stage.heard] == [ProgressMessage, LogMessage]
        assert stage.heard[1].text == "half\ufffdway"

    def test_what_was_said_just_before_the_end_is_heard(self, stage: Stage) -> None:
        outcome = stage.run({"flood": 5000}, {"done": 1})
        assert outcome.end is End.ANSWERED
        assert len(stage.heard) == 5000

    def test_an_answer_counts_even_if_the_interpreter_dies_after_it(self, stage: Stage) -> None:
        assert stage.run({"done": 1}, {"signal": int(signal.SIGSEGV)}).end is End.ANSWERED

    def test_a_runner_that_has_answered_is_not_waited_for(self, stage: Stage) -> None:
        assert stage.run({"done": 1}, {"sleep": 60}, limits=limits(wall_seconds=15)).end is End.ANSWERED

    def test_files_are_there_when_the_runner_is_gone(self, stage: Stage) -> None:
        seen: list[str] = []
        outcome = stage.run(
            {"write": ["out/model.onnx", "bytes"]},
            {
                "say": {
                    "kind": "artifact",
                    "artifact_kind": "model.onnx",
                    "files": [{"path": "model.onnx", "filename": "m.onnx"}],
                }
            },
            {"done": 1},
            look=lambda out: seen.append((out / "model.onnx").read_text()),
        )
        assert outcome.end is End.ANSWERED
        assert seen == ["bytes"]
        assert isinstance(stage.heard[0], ArtifactMessage)


class TestSilence:
    def test_killed_without_a_word(self, stage: Stage) -> None:
        outcome = stage.run({"complain": "about to go"}, {"signal": int(signal.SIGKILL)})
        assert outcome.end is End.SILENT
        assert "SIGKILL" in outcome.detail
        assert "about to go" in outcome.errors

    def test_left_without_an_answer(self, stage: Stage) -> None:
        outcome = stage.run({"exit": 3})
        assert outcome.end is End.SILENT
        assert "code 3" in outcome.detail

    def test_a_crash_leaves_its_trace(self, stage: Stage) -> None:
        outcome = stage.run({"signal": int(signal.SIGSEGV)})
        assert outcome.end is End.SILENT
        assert "Segmentation fault" in outcome.errors


class TestLimits:
    def test_wall_time(self, stage: Stage) -> None:
        assert stage.run({"spin": 1}, limits=limits(wall_seconds=1)).end is End.TIMED_OUT

    def test_silence(self, stage: Stage) -> None:
        assert stage.run({"sleep": 60}, limits=limits(stall_seconds=1)).end is End.STALLED

    def test_memory(self, stage: Stage) -> None:
        outcome = stage.run({"allocate": 1 << 30}, limits=limits(memory_bytes=300 << 20))
        assert outcome.end is End.OUT_OF_MEMORY
        assert str(300 << 20) in outcome.detail

    def test_the_kernel_refuses_at_once_what_no_watcher_would_see_in_time(self, stage: Stage) -> None:
        text = "import mmap; mmap.mmap(-1, 2 << 30, flags=mmap.MAP_PRIVATE)"
        stage.run({"python": text}, {"done": 1}, limits=limits(memory_bytes=300 << 20))
        (message,) = stage.heard
        assert isinstance(message, LogMessage)
        assert "Cannot allocate memory" in message.text

    def test_one_file_too_large(self, stage: Stage) -> None:
        outcome = stage.run({"fill": ["out/big", 40 << 20]}, limits=limits(disk_bytes=20 << 20))
        assert "File too large" in outcome.errors

    def test_memory_that_children_share_counts_once(self, stage: Stage) -> None:
        actions = [{"hold": 100 << 20}, {"fork": 20}, {"sleep": 1.5}, {"done": 1}]
        assert stage.run(*actions, limits=limits(memory_bytes=600 << 20)).end is End.ANSWERED

    def test_disk_in_many_files(self, stage: Stage) -> None:
        actions = [{"write": [f"tmp/{position}", "x" * (1 << 20)]} for position in range(8)]
        outcome = stage.run(*actions, {"sleep": 60}, limits=limits(disk_bytes=4 << 20))
        assert outcome.end is End.NO_SPACE

    @pytest.mark.parametrize("kind", ["deleted", "memory"])
    def test_files_without_a_name_are_counted(self, stage: Stage, kind: str) -> None:
        outcome = stage.run({"hide": [kind, 8]}, {"sleep": 60}, limits=limits(disk_bytes=4 << 20))
        assert outcome.end is End.NO_SPACE

    def test_shared_memory_is_disk(self, stage: Stage) -> None:
        actions = [{"write": [f"../dev/shm/{position}", "x" * (1 << 20)]} for position in range(8)]
        outcome = stage.run(*actions, {"sleep": 60}, limits=limits(disk_bytes=4 << 20))
        assert outcome.end is End.NO_SPACE


class TestOrders:
    @pytest.mark.parametrize("end", [End.CANCELLED, End.LOST, End.DRAINED])
    def test_an_order_ends_the_runner_and_all_its_children(self, each_stage: Stage, end: End) -> None:
        seen: list[psutil.Process] = []

        def order() -> End | None:
            seen[:] = toy_processes()
            return end if len(seen) >= 8 else None

        outcome = each_stage.run({"fork": 5}, {"sleep": 60}, order=order)
        assert outcome.end is end
        assert len(seen) >= 8  # bubblewrap, the first of its namespace, the runner and its children
        assert not [process for process in seen if process.is_running()]


class TestLies:
    """Bar S2b, with `test_lines.py` (what is no message, paths outside) and `test_results.py` (links)."""

    def test_what_is_no_message_ends_the_run(self, stage: Stage) -> None:
        outcome = stage.run({"raw": b"not json\n".hex()}, {"sleep": 60})
        assert outcome.end is End.VIOLATED
        assert "not JSON" in outcome.detail

    def test_talking_after_the_answer(self, stage: Stage) -> None:
        assert stage.run({"done_and_more": {"kind": "log", "text": "one more"}}).end is End.VIOLATED

    def test_a_huge_line_costs_no_memory(self, stage: Stage) -> None:
        before = psutil.Process().memory_info().rss
        assert stage.run({"long_line": 1 << 30}).end is End.VIOLATED
        assert psutil.Process().memory_info().rss - before < 32 << 20

    def test_a_flood_of_messages_costs_no_memory(self, stage: Stage) -> None:
        before = psutil.Process().memory_info().rss
        heard = 0

        def hear(message: Message) -> bool:
            nonlocal heard
            heard += 1
            return True

        assert stage.run({"flood": 200_000}, {"done": 1}, hear=hear).end is End.ANSWERED
        assert heard == 200_000
        assert psutil.Process().memory_info().rss - before < 32 << 20

    @pytest.mark.parametrize("raw", [b"\xff\xfe\n", b'{"kind": "progress", "method": "toy", "fraction": -1}\n'])
    def test_what_cannot_be_read_or_cannot_be_ends_the_run(self, stage: Stage, raw: bytes) -> None:
        assert stage.run({"raw": raw.hex()}, {"sleep": 60}).end is End.VIOLATED

    def test_a_fork_bomb_is_ended(self, stage: Stage) -> None:
        assert stage.run({"fork": 40}, {"sleep": 60}).end is End.VIOLATED


class TestWhatIsLeft:
    def test_nothing_is_left_of_a_run(self, each_stage: Stage) -> None:
        each_stage.run({"close_folder": "out"}, {"done": 1})
        assert list((each_stage.folder / "scratch" / "runs").iterdir()) == []

    def test_a_tree_deeper_than_the_stack_goes_too(self, stage: Stage) -> None:
        text = "import os; os.chdir('/job/out'); [(os.mkdir('d'), os.chdir('d')) for _ in range(1500)]"
        assert stage.run({"python": text}, {"done": 1}).end in (End.ANSWERED, End.VIOLATED)
        assert list((stage.folder / "scratch" / "runs").iterdir()) == []

    def test_a_link_does_not_lead_the_cleaning_out(self, stage: Stage, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        outside.chmod(0o750)
        (outside / "file").write_text("kept")
        stage.run({"link": ["out/link", str(outside)]}, {"link": ["out/file", str(outside / "file")]}, {"done": 1})
        assert (outside / "file").read_text() == "kept"
        assert outside.stat().st_mode & 0o777 == 0o750

    def test_no_descriptor_is_left(self, stage: Stage) -> None:
        stage.run({"done": 1})
        before = len(list(Path("/proc/self/fd").iterdir()))
        stage.run({"done": 1})
        stage.run({"signal": 9})
        assert len(list(Path("/proc/self/fd").iterdir())) == before
