import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from core.errors import ModelpressError
from core.messages import ArtifactFile, ArtifactMessage, CheckpointMessage
from core.settings import settings
from core.storage.blobs import Blobs, open_blobs
from workers.lines import Violation
from workers.results import keep, take
from workers.staging import Run


@pytest.fixture
def blobs(scratch: Path) -> Blobs:
    return open_blobs(settings().storage_url)


def announce(path: str, filename: str = "model.onnx") -> ArtifactMessage:
    # Unchecked: what the pattern of the message refuses must not get through here either.
    file = ArtifactFile.model_construct(path=path, filename=filename)
    return ArtifactMessage.model_construct(artifact_kind="model.onnx", files=(file,))


def test_files_are_hashed_by_us_and_stored(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"bytes")
    (kept,) = keep(tmp_path, [announce("folder/file")], blobs)
    digest = sha256(b"bytes").hexdigest()
    assert (kept.kind, kept.files[0].sha256, kept.files[0].bytes) == ("model.onnx", digest, 5)
    assert b"".join(blobs.get(digest)) == b"bytes"


def _link(out: Path) -> None:
    (out / "file").symlink_to("/etc/hostname")


def _linked_folder(out: Path) -> None:
    (out.parent / "outside").mkdir()
    (out.parent / "outside" / "file").write_text("x")
    (out / "link").symlink_to(out.parent / "outside")


def _hard_link(out: Path) -> None:
    (out / "first").write_text("x")
    os.link(out / "first", out / "file")


def _pipe(out: Path) -> None:
    os.mkfifo(out / "file")


def _folder(out: Path) -> None:
    (out / "file").mkdir()


def _outside(out: Path) -> None:
    (out.parent / "file").write_text("x")


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (_link, "file"),
        (_linked_folder, "link/file"),
        (_hard_link, "file"),
        (_pipe, "file"),
        (_folder, "file"),
        (_outside, "../file"),
        (_outside, "folder/../../file"),
        (_folder, "file/."),
        (_folder, "missing"),
    ],
)
def test_what_is_no_plain_file_below_the_folder_is_refused(
    blobs: Blobs, tmp_path: Path, make: Callable[[Path], None], path: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    make(out)
    with pytest.raises(Violation):
        keep(out, [announce(path)], blobs)


@pytest.mark.parametrize("filename", ["../x", "a/b", "..", ".", "", "a\nb", "a\x00b"])
def test_a_name_that_is_a_path_is_refused(blobs: Blobs, tmp_path: Path, filename: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Violation):
        keep(tmp_path, [announce("file", filename)], blobs)


def test_two_artifacts_of_one_kind_are_refused(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Violation):
        keep(tmp_path, [announce("file"), announce("file")], blobs)


def make_run(folder: Path) -> Run:
    run = Run(folder, (), folder / "lock")
    for path in (run.out / "checkpoints" / "1", run.kept):
        path.mkdir(parents=True)
    return run


def test_a_checkpoint_is_copied_hashed_stored_and_removed(blobs: Blobs, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run.out / "checkpoints/1/a.json").write_bytes(b"bytes")
    files = (ArtifactFile(path="checkpoints/1/a.json", filename="a.json"),)
    kept = take(run, CheckpointMessage(step=2, finished=True, files=files), blobs.of_area("checkpoints"))
    assert (kept.step, kept.finished) == (2, True)
    digest = sha256(b"bytes").hexdigest()
    assert [(file.filename, file.sha256, file.bytes) for file in kept.files] == [("a.json", digest, 5)]
    assert b"".join(blobs.of_area("checkpoints").get(digest)) == b"bytes"
    assert not blobs.exists(digest)
    assert list(run.kept.iterdir()) == list((run.out / "checkpoints/1").iterdir()) == []


def test_a_checkpoint_that_is_a_link_is_none(blobs: Blobs, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run.out / "checkpoints/1/a.json").symlink_to("/etc/hostname")
    files = (ArtifactFile(path="checkpoints/1/a.json", filename="a.json"),)
    with pytest.raises(Violation):
        take(run, CheckpointMessage(step=0, finished=False, files=files), blobs)


def test_what_could_not_be_stored_does_not_keep_the_runner_from_writing_another(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    for name in ("a.json", "b.json"):
        (run.out / "checkpoints/1" / name).write_bytes(b"bytes")
    files = tuple(ArtifactFile(path=f"checkpoints/1/{name}", filename=name) for name in ("a.json", "b.json"))

    def refuse(*_: object) -> None:
        raise ModelpressError("unavailable", "The store is away.")

    monkeypatch.setattr(Blobs, "put_file", refuse)
    with pytest.raises(ModelpressError):
        take(run, CheckpointMessage(step=0, finished=False, files=files), blobs)
    assert list(run.kept.iterdir()) == list((run.out / "checkpoints/1").iterdir()) == []
