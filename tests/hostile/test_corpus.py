"""Hostile uploads: each is refused with a code, and nothing in it reaches beyond the sandbox (bars S1, S3 to S5)."""

import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from core.errors import ModelpressError
from tests.hostile.canary import Canary, set_out
from tests.hostile.cases import Case
from tests.hostile.corpus import corpus
from tests.hostile.graphs import graphs
from tests.hostile.stand import Stand, written_outside

# Those that only a sandbox should meet: what they cost is bounded there.
HEAVY = re.compile(r"onnx-(loop|range|doubling|pad)|data-(npz-bomb|images-zip-bomb|tokenizer-backtracks|csv-one-cell)")
# One of each kind through the whole stack; `benchmarks/hostile.py` takes all.
THROUGH_THE_STACK = frozenset(
    {
        "pickle-2",
        "torch-checkpoint",
        "torchscript",
        "pt2-pickled-weight-2",
        "pt2-saved-samples-2",
        "pt2-300-MB-in-300-kB",
        "pt2-directory-bomb",
        "pt2-sympy",
        "pt2-makes-4-TB",
        "onnx-outside-8",
        "onnx-32-GB-constant",
        "onnx-loop-spins",
        "onnx-loop-eats",
        "hf-remote-code",
        "hf-900k-tensors",
        "data-npz-objects",
        "data-npz-bomb",
        "data-images-pixel-bomb",
        "data-tokenizer-backtracks",
        "data-safetensors-900k-tensors",
    }
)


def refuse(case: Case, folder: Path) -> ModelpressError | None:
    """What the readers themselves say, without a sandbox."""
    from core.data.inspection import describe_dataset
    from core.data.source import DataFile
    from core.network.gate import check
    from core.network.inspect import inspect

    places = {name: folder / str(position) for position, name in enumerate(case.files)}
    for name, place in places.items():
        place.write_bytes(case.files[name])
    try:
        if case.about == "dataset":
            describe_dataset([DataFile(place, name) for name, place in places.items()], case.spec)
        else:
            check(places)
            inspect(places)
    except ModelpressError as error:
        return error
    return None


def test_the_corpus_is_as_large_as_promised_and_the_readers_refuse_all_of_it(canary: Canary, tmp_path: Path) -> None:
    names, accepted, strange = [], [], []
    for case in corpus(canary):
        names.append(case.name)
        if not HEAVY.match(case.name):
            error = refuse(case, tmp_path)
            if error is None:
                accepted.append(case.name)
            elif error.code not in case.codes:
                strange.append((case.name, error.code, error.detail[:200]))
            assert canary.count() == 0, case.name
    assert (accepted, strange) == ([], [])
    assert written_outside(tmp_path) == []
    assert len(names) == len(set(names))
    assert len(names) >= 200
    assert set(names) >= THROUGH_THE_STACK


LOOK = """
import sys
from pathlib import Path
from core.errors import ModelpressError
from core.network.gate import check
try:
    check(Path(sys.argv[1]))
except ModelpressError as error:
    print(error.code)
# The peak that getrusage tells is inherited from the process that forked.
facts = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print("torch" in sys.modules, facts["VmHWM"].split()[0])
"""


# Bar S3 is the first four, bar S4 the last.
BOMBS = ("pt2-300-MB-in-300-kB", "pt2-deflated", "pt2-directory-bomb", "pt2-wrong-size", "safetensors-900k-tensors")


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """By name; making the corpus takes seconds."""
    with set_out(tmp_path_factory.mktemp("host")) as canary:
        return {case.name: case for case in corpus(canary) if case.name in BOMBS}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_torch_and_in_little_memory(bombs: dict[str, Case], tmp_path: Path, name: str) -> None:
    case = bombs[name]
    path = tmp_path / "bomb"
    path.write_bytes(next(iter(case.files.values())))
    command = [sys.executable, "-c", LOOK, str(path)]
    code, facts = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    loaded, peak = facts.split()
    assert code in case.codes
    assert loaded == "False"
    assert int(peak) <= 50 << 10  # KiB


def test_no_place_that_a_model_names_is_opened(canary: Canary, tmp_path: Path) -> None:
    """Bar S5."""
    opened: list[str] = []
    watching = False

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], str | bytes | Path):
            opened.append(str(arguments[0]))

    sys.addaudithook(hear)
    refused = 0
    for case in graphs(canary):
        if case.name.startswith("onnx-outside"):
            refuse(case, tmp_path)  # what is imported late is imported now
            watching = True
            error = refuse(case, tmp_path)
            watching = False
            assert error is not None
            assert error.code == "external_data"
            refused += 1
    assert refused >= 9
    assert [path for path in opened if not Path(path).is_relative_to(tmp_path)] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_worker_rejects_it_and_lives(stand: Stand, canary: Canary, tmp_path: Path) -> None:
    """Bar S1."""
    before = psutil.Process().memory_info().rss
    told = {}
    for case in corpus(canary):
        if case.name in THROUGH_THE_STACK:
            ending = stand.inspect(case)
            told[case.name] = ending
            assert canary.count() == 0, case.name
            assert ending.state == "rejected", (case.name, ending)
            assert ending.code in case.codes, (case.name, ending)
    assert told.keys() == THROUGH_THE_STACK
    below = psutil.Process().children(recursive=True)
    assert not [each for each in below if "runner" in (each.as_dict(["cmdline"])["cmdline"] or ())]
    assert psutil.Process().memory_info().rss - before < 256 << 20
    assert written_outside(tmp_path) == []
