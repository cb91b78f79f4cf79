import io
import pickle
import struct
import zipfile
from contextlib import suppress

import numpy as np
import pytest

from core.data.npz import NpzArchive
from core.errors import ModelpressError


class Canary:
    """Unpickling one of these writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    return buffer.getvalue()


def write(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def everything(column):
    return column.read(np.arange(len(column)))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["u1", "<f4", ">f4", "i8", "?", "f2"])
def test_reads_what_numpy_wrote(tmp_path, save, dtype):
    array = (np.arange(24).reshape(2, 3, 4) % 5).astype(dtype)
    save(tmp_path / "a.npz", c=array, fortran=np.asfortranarray(array), empty=array[:0])
    archive = NpzArchive(tmp_path / "a.npz")
    for name, wanted in (("c", array), ("fortran", array), ("empty", array[:0])):
        got = archive.read(name)
        assert (got.dtype, got.shape) == (array.dtype, wanted.shape)
        np.testing.assert_array_equal(everything(got), wanted)


def test_rows_come_in_any_order(tmp_path):
    array = np.arange(300).reshape(100, 3)
    np.savez(tmp_path / "a.npz", a=array)
    column = NpzArchive(tmp_path / "a.npz").read("a")
    for rows in ([5], [7, 8, 9, 2, 3, 3, 99, 0], []):
        np.testing.assert_array_equal(column.read(np.array(rows, np.int64)), array[rows])


def test_a_large_array_in_fortran_order_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("core.data.npz.MAX_FORTRAN_BYTES", 1000)
    np.savez(tmp_path / "a.npz", a=np.asfortranarray(np.zeros((100, 3))))
    with pytest.raises(ModelpressError, match="Fortran order"):
        NpzArchive(tmp_path / "a.npz").read("a")


def test_never_unpickles(tmp_path):
    canary = tmp_path / "canary"
    np.savez(tmp_path / "a.npz", a=np.array([Canary(canary)], dtype=object))
    with pytest.raises(ModelpressError, match="not numbers") as caught:
        NpzArchive(tmp_path / "a.npz").read("a")
    assert caught.value.code == "invalid_data"
    header = npy(np.zeros(1, dtype=object))[:128]
    write(tmp_path / "b.npz", [("a.npy", header + pickle.dumps([Canary(canary)]))])
    with pytest.raises(ModelpressError, match="not numbers"):
        NpzArchive(tmp_path / "b.npz").read("a")
    assert not canary.exists()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = write(tmp_path / "a.npz", [("a.npy", npy(np.zeros(1 << 22, np.uint8)))], zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 14
    with pytest.raises(ModelpressError, match="unpack to"):
        NpzArchive(path, max_deflated_bytes=1 << 20)


def test_a_header_that_declares_more_than_there_is_allocates_nothing(tmp_path):
    content = npy(np.zeros(4, np.float32)).replace(b"(4,)", b"(9000000000000,)")
    content = content[:128].replace(b"                \n", b"    \n", 1).ljust(128) + content[-16:]
    write(tmp_path / "a.npz", [("a.npy", content)])
    with pytest.raises(ModelpressError):
        NpzArchive(tmp_path / "a.npz")


def test_negative_sizes_are_refused(tmp_path):
    content = npy(np.zeros(4, np.float32)).replace(b"(4,), }  ", b"(-2, -2), }", 1)
    write(tmp_path / "a.npz", [("a.npy", content)])
    with pytest.raises(ModelpressError):
        NpzArchive(tmp_path / "a.npz")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_byte_is_seen(tmp_path, compression):
    array = np.random.default_rng(0).integers(0, 255, 4000).astype(np.uint8)
    path = write(tmp_path / "a.npz", [("a.npy", npy(array))], compression)
    content = bytearray(path.read_bytes())
    content[2000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ModelpressError) as caught:
        NpzArchive(path).read("a")
    assert caught.value.code == "invalid_data"


@pytest.mark.parametrize("keep", [0, 10, 500, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    np.savez(tmp_path / "a.npz", a=np.arange(1000))
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:keep])
    with pytest.raises(ModelpressError, match="damaged"):
        NpzArchive(tmp_path / "b.npz")


def test_every_truncation_or_flip_gives_a_typed_error_or_the_right_array(tmp_path):
    array = np.arange(20, dtype=np.int32)
    np.savez_compressed(tmp_path / "a.npz", a=array)
    content = (tmp_path / "a.npz").read_bytes()
    broken = tmp_path / "b.npz"
    for at in range(len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 0x55
        for bad in (content[:at], bytes(flipped)):
            broken.write_bytes(bad)
            # Any other error than ours fails the test.
            with suppress(ModelpressError):
                archive = NpzArchive(broken)
                for name in archive.entries:
                    np.testing.assert_array_equal(everything(archive.read(name)), array)


def test_duplicate_names_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        write(tmp_path / "a.npz", [("a.npy", npy(np.zeros(1))), ("a.npy", npy(np.ones(1)))])
    with pytest.raises(ModelpressError, match="two entries"):
        NpzArchive(tmp_path / "a.npz")


def test_other_packings_and_encryption_are_refused(tmp_path):
    path = write(tmp_path / "a.npz", [("a.npy", npy(np.zeros(1)))], zipfile.ZIP_LZMA)
    with pytest.raises(ModelpressError, match="unknown packing"):
        NpzArchive(path)
    path = write(tmp_path / "b.npz", [("a.npy", npy(np.zeros(1)))])
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    content[central + 8 : central + 10] = struct.pack("<H", 1)
    path.write_bytes(content)
    with pytest.raises(ModelpressError, match="encrypted"):
        NpzArchive(path)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(pickle.dumps([1, 2, 3]))
    with pytest.raises(ModelpressError, match=r"not an \.npz"):
        NpzArchive(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(npy(np.zeros(3)))
    with pytest.raises(ModelpressError, match=r"not an \.npz"):
        NpzArchive(tmp_path / "b.npz")
