"""Keeps libraries quiet while they read or write a network; what goes wrong is told in one sentence."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_TALKATIVE = ("onnx_ir", "onnxscript", "torch._subclasses.fake_tensor", "torch.export", "torch.fx", "torch.onnx")


@contextmanager
def silence(*others: str) -> Iterator[None]:
    """No warnings and no logs of torch, its exporters and `others`: none of it is about the user's model."""
    loggers = [logging.getLogger(name) for name in (*_TALKATIVE, *others)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
