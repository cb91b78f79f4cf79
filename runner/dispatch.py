"""Answers one request: inspects a model or a data set, or runs a job.

Torch is imported only when a request gets as far as needing it: it costs seconds and hundreds of megabytes, which no
file is worth that its first bytes condemn.
"""

import os
import traceback
import warnings
from pathlib import Path

from pydantic import ValidationError

from core.errors import ModelpressError
from core.messages import (
    REQUEST,
    DatasetInspected,
    ErrorMessage,
    InspectDataset,
    InspectModel,
    JobDone,
    LogMessage,
    ModelInspected,
    Request,
    RunJob,
)
from core.network.gate import check
from core.network.upload import staged_by_name
from runner.channel import Channel

TEXT_LIMIT = 4000


def answer(work: Path, channel: Channel) -> None:
    """Read `request.json`, send what it leads to; every failure becomes an `ErrorMessage`."""
    warnings.simplefilter("ignore")
    try:
        request = REQUEST.validate_json((work / "request.json").read_bytes())
        _carry_out(request, work, channel)
    except ModelpressError as error:
        channel.send(_as_message(error))
    except ValidationError as error:
        channel.send(ErrorMessage(code="invalid_request", detail=str(error)[:TEXT_LIMIT]))
    except MemoryError:
        channel.send(ErrorMessage(code="out_of_memory", detail="The runner could not get the memory that it needs."))
    except Exception as error:  # noqa: BLE001  the edge of a task
        _report_surprise(error, channel)


def _carry_out(request: Request, work: Path, channel: Channel) -> None:
    match request:
        case InspectModel():
            channel.send(_inspect_model(request))
        case InspectDataset():
            channel.send(_inspect_dataset(request))
        case _:
            channel.send(_run_job(request, work, channel))


def _inspect_model(request: InspectModel) -> ModelInspected:
    files = staged_by_name(request.files)
    check(files)
    _load_torch()
    from core.network.inspect import inspect  # noqa: PLC0415  (loads torch)

    return ModelInspected(description=inspect(files, request.seed))


def _inspect_dataset(request: InspectDataset) -> DatasetInspected:
    _load_torch()
    from core.data.inspection import describe_dataset  # noqa: PLC0415  (loads torch)
    from core.data.source import data_files  # noqa: PLC0415  (loads numpy)

    return DatasetInspected(description=describe_dataset(data_files(request.files), request.spec))


def _run_job(request: RunJob, work: Path, channel: Channel) -> JobDone:
    _load_torch()
    from core.compression.pipeline import run  # noqa: PLC0415  (loads torch)

    return JobDone(verdict=run(request, channel.send, work))


def _load_torch() -> None:
    import torch  # noqa: PLC0415  (see the docstring of this module)

    torch.set_num_threads(max(int(os.environ.get("OMP_NUM_THREADS", "1")), 1))


def _as_message(error: ModelpressError) -> ErrorMessage:
    return ErrorMessage(
        code=error.code,
        detail=error.detail[:TEXT_LIMIT],
        hint=error.hint[:1000],
        node=error.node,
        layer=error.layer,
        step=error.step,
        retryable=error.retryable,
    )


def _report_surprise(error: Exception, channel: Channel) -> None:
    """What nobody thought of: torch says out-of-memory as a RuntimeError, all else is a fault of ours."""
    for line in traceback.format_exception(error):
        channel.send(LogMessage(level="error", text=line.rstrip()[:TEXT_LIMIT]))
    sentence = f"{type(error).__name__}: {error}"
    out_of_memory = isinstance(error, RuntimeError) and "alloc" in str(error) and "memory" in str(error)
    code = "out_of_memory" if out_of_memory else "internal"
    channel.send(ErrorMessage(code=code, detail=sentence[:TEXT_LIMIT]))
