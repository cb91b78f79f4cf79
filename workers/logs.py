"""Logs of workers and dispatcher: one JSON object a line on standard error."""

import sys

import structlog


def configure_logs(process: str) -> None:
    """Have every log line of this process name it and be JSON."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("event"),
            _naming(process),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


def _naming(process: str) -> structlog.typing.Processor:
    def name(
        logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        del logger, method
        return {"process": process, **event}

    return name
