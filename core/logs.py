"""Logs of API, workers and dispatcher: one JSON object a line on standard error."""

import sys

import structlog


def configure_logs() -> None:
    """Set up structlog; tracebacks are plain, since one with local variables would write keys into the log."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
