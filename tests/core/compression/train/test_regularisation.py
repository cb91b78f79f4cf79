"""What is drawn towards zero becomes smaller by as much as was asked for, and training leaves less in what is weak."""

import torch

from core.compression.train import TRAIN
from core.compression.train.mount import TrainableNetwork
from core.compression.train.regularisation import make_regulariser
from core.network.surgery import Channels, outer_groups
from core.specs.train import Finetune, Regularisation


def lengths(network) -> torch.Tensor:
    (group,) = outer_groups(Channels(network))
    return group.score(torch.square).sqrt()


def test_single_weights_move_by_the_rate_times_the_strength_and_not_past_zero(small):
    mounted = TrainableNetwork(small)
    before = {name: each.detach().clone() for name, each in mounted.named_parameters()}
    regulariser = make_regulariser(Regularisation(of="weights", strength=0.5), small, mounted)
    regulariser.shrink(0.1)
    for name, after in mounted.named_parameters():
        wanted = before[name].sign() * (before[name].abs() - 0.05).clamp_min(0)
        assert torch.allclose(after, wanted if after.dim() > 1 else before[name], atol=1e-7)
        assert after.dim() == 1 or bool((after == 0).any())


def test_channels_become_shorter_all_by_as_much_until_nothing_is_left(small):
    mounted = TrainableNetwork(small)
    before = lengths(small)
    regulariser = make_regulariser(Regularisation(of="channels", strength=0.5), small, mounted)
    regulariser.shrink(0.02)
    after = lengths(mounted.unmount())
    # 9 taps, a bias, gain and offset of the norm, and 16 × 3 weights that read a channel.
    assert torch.allclose(before - after, torch.tensor(0.5 * 0.02 * (9 + 1 + 2 + 48) ** 0.5), atol=1e-5)
    regulariser.shrink(10.0)
    assert not lengths(mounted.unmount()).any()


def weakest_half(values: torch.Tensor) -> float:
    """What the weaker half is of the whole."""
    squares = values.flatten().square().sort().values
    return float(squares[: len(squares) // 2].sum() / squares.sum())


def test_training_leaves_less_in_what_is_weak(small, shapes, context):
    def train(of: str | None):
        asked = None if of is None else {"of": of, "strength": 0.3}
        settings = {"epochs": 10, "batch_size": 32, "lr": 0.01, "early_stopping": 0, "regularise": asked}
        return TRAIN[Finetune].apply(small, Finetune.model_validate(settings), context(shapes))[0]

    plain = train(None)
    weights = [each.graph.get_parameter("fc.weight").detach() for each in (train("weights"), plain)]
    assert weakest_half(weights[0]) < 0.5 * weakest_half(weights[1])
    narrow = lengths(train("channels"))
    assert bool((narrow < 0.75 * lengths(plain)).all())
    assert weakest_half(narrow) < 0.95 * weakest_half(lengths(plain))
