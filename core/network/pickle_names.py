"""What a pickle would import if somebody opened it, found by reading its opcodes; nothing of it is run."""

import pickletools
import re
import zipfile
from typing import IO

from core.errors import ModelpressError

# Tensors and plain containers, which is what `torch.load(weights_only=True)` opens too.
_HARMLESS = re.compile(
    r"torch\.(\w+Storage|storage\.\w+Storage|Size|device|dtype|(bfloat|float|u?int|complex|qu?int)\d+\w*|bool"
    r"|_utils\._rebuild_\w+|_tensor\._rebuild_from_type_v2|nn\.parameter\.(Parameter|Buffer))"
    r"|collections\.(OrderedDict|Counter|defaultdict)|(builtins|__builtin__)\.(set|frozenset|complex|slice)"
    r"|_codecs\.encode"
)
# Names made while the pickle runs; torch.save writes none of these.
_COMPUTED = frozenset({"STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "PERSID", "OBJ"})
# A data set of samples as a pickle has tens of bytes a tensor; more only costs time.
MAX_PICKLE_BYTES = 1024**2
MAX_ENTRIES = 10_000


def check_saved_tensors(file: IO[bytes], name: str) -> None:
    """Raise `unsafe_file` unless the file is what `torch.save` makes of plain tensors."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
            if not stored or len(entries) > MAX_ENTRIES or any(entry.file_size > MAX_PICKLE_BYTES for entry in pickles):
                raise _unsafe(name, "is packed as torch.save never does")
            imported = {each for entry in pickles for each in imported_names(archive.read(entry))}
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, OSError, NotImplementedError) as error:
        raise _unsafe(name, "is no file of torch.save, and may be a pickle") from error
    if foreign := sorted(each for each in imported if not _HARMLESS.fullmatch(each)):
        raise _unsafe(name, f"would import {foreign[0][:200]} when it is opened")


def imported_names(data: bytes) -> frozenset[str]:
    """The names that a pickle imports, and the opcodes that could import any; raises ValueError for what is none."""
    names = set()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("GLOBAL", "INST"):
                names.add(str(argument).replace(" ", ".", 1))
            elif opcode.name in _COMPUTED:
                names.add(opcode.name)
    except (IndexError, OverflowError, KeyError) as error:
        raise ValueError("it is no pickle") from error
    return frozenset(names)


def _unsafe(name: str, reason: str) -> ModelpressError:
    return ModelpressError(
        "unsafe_file",
        f"The entry {name[:200]} {reason}.",
        hint="Export again with plain tensors as example inputs.",
        node=name[:200],
    )
