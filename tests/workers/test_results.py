import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from core.messages import ArtifactFile, ArtifactMessage
from core.settings import settings
from core.storage.blobs import Blobs, open_blobs
from workers.lines import Violation
from workers.results import keep


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
