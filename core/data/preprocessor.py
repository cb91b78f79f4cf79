"""How a Hugging Face image processor prepares images, or a feature extractor waveforms, as a mapping of ours."""

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.data.source import DataFile
from core.description import InputMapping, PixelCount
from core.errors import ModelpressError

NAME = "preprocessor_config.json"
MAX_BYTES = 1 << 20
WAVEFORMS = "Wav2Vec2FeatureExtractor"
# Numbers of the filters as Pillow counts them.
FILTERS: dict[int, Literal["nearest", "bilinear", "bicubic"]] = {0: "nearest", 2: "bilinear", 3: "bicubic"}


class Sides(BaseModel):
    """A size as it is written there: both sides, or the shorter one."""

    model_config = ConfigDict(extra="ignore")

    height: PixelCount | None = None
    width: PixelCount | None = None
    shortest_edge: PixelCount | None = None


class Processor(BaseModel):
    """The part of `preprocessor_config.json` that says what happens to the numbers."""

    model_config = ConfigDict(extra="ignore")

    do_resize: bool = False
    size: Sides | PixelCount | None = None
    do_center_crop: bool = False
    crop_size: Sides | PixelCount | None = None
    resample: int = 2
    do_rescale: bool = True
    rescale_factor: Annotated[float, Field(gt=0)] = 1 / 255
    do_normalize: bool = False
    image_mean: tuple[float, ...] = ()
    image_std: tuple[float, ...] = ()


class Listener(BaseModel):
    """The part of the settings of a feature extractor for audio that says what happens to the numbers."""

    model_config = ConfigDict(extra="ignore")

    feature_extractor_type: str = ""
    do_normalize: bool = False


def is_preprocessor(file: DataFile) -> bool:
    """Whether a file is the settings of an image processor or a feature extractor."""
    return file.name.rsplit("/", 1)[-1] == NAME


def read_preprocessor(file: DataFile) -> InputMapping:
    """The mapping that does the same to an image or a waveform; raises `invalid_data`."""
    try:
        if file.path.stat().st_size > MAX_BYTES:
            raise ValueError
        settings = json.loads(file.path.read_bytes())
        if isinstance(settings, dict) and "sampling_rate" in settings:
            listener = Listener.model_validate(settings)
            # Others make spectrograms and normalise those, which is done before they are uploaded.
            return InputMapping(per_sample=listener.do_normalize and listener.feature_extractor_type == WAVEFORMS)
        return _as_mapping(Processor.model_validate(settings))
    except (ValidationError, ValueError, KeyError, RecursionError) as error:
        raise ModelpressError("invalid_data", f"{file.name} has settings that are not understood here.") from error


def _as_mapping(found: Processor) -> InputMapping:
    resize, size = _sizes(found)
    return InputMapping(
        size=size,
        resize=resize,
        interpolation=FILTERS[found.resample],
        scale=found.rescale_factor if found.do_rescale else 1.0,
        mean=found.image_mean if found.do_normalize else (),
        std=found.image_std if found.do_normalize else (),
        colour="rgb",
    )


def _sizes(found: Processor) -> tuple[int | None, tuple[int, int] | None]:
    """`resize` and `size` of a mapping; raises `ValueError` for what a mapping cannot say."""
    crop = _both(found.crop_size) if found.do_center_crop else None
    if not found.do_resize or found.size is None:
        if crop is not None:
            raise ValueError
        return None, None
    given = found.size if isinstance(found.size, Sides) else Sides(shortest_edge=found.size if crop else None)
    shorter = given.shortest_edge
    if shorter is not None:
        # Without a crop images would keep their shapes and could not share a batch.
        return shorter, crop or (shorter, shorter)
    both = _both(found.size)
    if crop not in (None, both):
        raise ValueError
    return None, both


def _both(size: Sides | int | None) -> tuple[int, int]:
    if isinstance(size, int):
        return (size, size)
    if size is None or size.height is None or size.width is None:
        raise ValueError
    return (size.height, size.width)
