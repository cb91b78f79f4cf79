"""The form of a job where there are several methods."""

import asyncio

from starlette.datastructures import FormData

from api.dashboard import new_job

LINEAR = {"recipe.steps.0.method": "quantize.linear", "recipe.steps.0.calibration.method": "mse", "name": "mine"}


class Sent:
    """What a browser sends."""

    def __init__(self, **fields: str) -> None:
        self._fields = fields

    async def form(self) -> FormData:
        return FormData(self._fields)


def texts(**fields: str) -> dict[str, str]:
    return asyncio.run(new_job.sent_texts(Sent(**fields)))  # type: ignore[arg-type]


def test_settings_of_the_method_that_is_shown_are_read() -> None:
    assert texts(**LINEAR, shown_method="quantize.linear") == LINEAR
    assert texts(**LINEAR) == LINEAR


def test_another_method_leaves_the_settings_behind() -> None:
    left = texts(**LINEAR, shown_method="quantize.onnx")
    assert left == {"recipe.steps.0.method": "quantize.linear", "name": "mine"}
    step = new_job.request_body({"recipe.steps.0.method": "quantize.onnx"})["recipe"]["steps"][0]
    assert step["method"] == "quantize.onnx"
