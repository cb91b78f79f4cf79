"""Answers one request: inspects a model or a data set, or runs a job."""

import os
import traceback
import warnings
from pathlib import Path

import torch
from pydantic import ValidationError

from core.compression.pipeline import run
from core.data.inspection import describe_dataset
from core.data.source import data_files
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
)
from core.network.inspect import inspect
from core.network.upload import staged_by_name
from runner.channel import Channel

TEXT_LIMIT = 4000


def answer(work: Path, channel: Channel) -> None:
    """Read `request.json`, send what it leads to; every failure becomes an `ErrorMessage`."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(max(int(os.environ.get("OMP_NUM_THREADS", "1")), 1))
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
            channel.send(ModelInspected(description=inspect(staged_by_name(request.files), request.seed)))
        case InspectDataset():
            channel.send(DatasetInspected(description=describe_dataset(data_files(request.files), request.spec)))
        case _:
            channel.send(JobDone(verdict=run(request, channel.send, work)))


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
