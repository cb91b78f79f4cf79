"""How many samples the trials of layers may use."""

from core.compression.quantize.sensitivity import (
    FEWEST_SAMPLES,
    MOST_MACS,
    SAMPLES,
    SAMPLES_OF_MANY_LAYERS,
    samples_for,
)


def test_small_networks_get_all_samples_and_large_ones_what_a_minute_or_two_allows() -> None:
    assert samples_for(22, 40_813_184) == SAMPLES
    assert samples_for(65, 10_000_000) == SAMPLES_OF_MANY_LAYERS
    large = samples_for(21, 1_800_000_000)
    assert FEWEST_SAMPLES < large < SAMPLES
    assert large * 21 * 1_800_000_000 <= MOST_MACS
    assert samples_for(200, 100_000_000_000) == FEWEST_SAMPLES
    assert samples_for(1, 0) == SAMPLES
