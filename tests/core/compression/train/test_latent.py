"""Latent weights start as the original's wherever that changes no answer."""

from dataclasses import replace

import torch

from core.compression.train.latent import latent_weights
from core.compression.train.losses import TaskObjective
from core.compression.train.mount import TrainableNetwork
from core.compression.train.trainer import train
from core.network.encodings import AffineInteger, Masked, packed_grid
from core.specs.train import Training

PATH = "fc.weight"


def encode(network, *, change=0.0):
    """A copy whose matrix is ternary, with some codes that are not the nearest where `change` is not 0."""
    copy = TrainableNetwork(network).unmount()
    parameter = copy.graph.get_parameter(PATH)
    given = parameter.detach().clone()
    given[0] += change
    encoding = AffineInteger.of(given, grid=packed_grid(2), axis=0)
    parameter.data = encoding.decode()
    return replace(copy, encodings={PATH: encoding})


def test_the_original_is_taken_where_it_rounds_to_what_is_stored(small):
    original = small.graph.get_parameter(PATH).detach()
    for change in (0.0, 0.5):
        network = encode(small, change=change)
        stored = network.encodings[PATH].decode()
        latent = latent_weights(network, small)[PATH]
        same = network.encodings[PATH].project(original) == stored
        assert torch.equal(latent[same], original[same])
        assert torch.equal(latent[~same], stored[~same])
        assert bool(same.all()) is (change == 0.0)
        mounted = TrainableNetwork(network, latent={PATH: latent})
        assert torch.equal(mounted.unmount().graph.get_parameter(PATH), stored)


def test_what_a_mask_leaves_out_stays_zero(small):
    network = encode(small)
    inner = network.encodings[PATH]
    mask = torch.arange(inner.codes.numel()).reshape(inner.shape) % 2 == 0
    masked = replace(network, encodings={PATH: Masked(mask, inner)})
    latent = latent_weights(masked, small)[PATH]
    assert torch.equal(latent[mask], small.graph.get_parameter(PATH).detach()[mask])
    assert not bool(latent[~mask].any())


def test_training_begins_at_the_original(small, shapes, context):
    """Small steps change the codes of weights that were just beside the next level, and of none that began on one."""
    network = encode(small)
    settings = Training(steps=4, lr=1e-3, batch_size=32)
    begun = network.encodings[PATH].codes
    for original, changes in ((small, True), (None, False)):
        given = replace(context(shapes), original=original)
        found = train(network, TaskObjective("classification"), shapes, settings, given).network
        assert (not torch.equal(found.encodings[PATH].codes, begun)) is changes
