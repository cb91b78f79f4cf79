"""Logs of API, workers and dispatcher: one JSON object a line on standard error."""

import sys

import structlog


def configure_logs(process: str) -> None:
    """Have every line name its process; tracebacks are plain, since one with local variables would show keys."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            lambda _logger, _method, event: {"process": process, **event},
            structlog.processors.JSONRenderer(),
        ],
        # Looked up at each line: a stream that was swapped (a test, a daemon) may be closed by now.
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
    )
