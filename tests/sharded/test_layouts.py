"""What the layouts over eight devices compute, keep and send.

What a program keeps and sends is asked of the one that is trained with outside of the tests too,
with all optimizations.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import collectives, scaling
from lconv_jax import models
from lconv_jax.parallel import sharding
from lconv_jax.rundir.checkpoint import Checkpoints
from lconv_jax.training import programs
from lconv_jax.training.setup import prepare
from tests import tiny_config
from tests.helpers import in_dtype

LAYOUTS = [(1, 8), (8, 1), (4, 2)]
EPOCHS, STEPS_PER_EPOCH = 5, 11


@pytest.fixture(autouse=True)
def small_matrices_are_split(monkeypatch):
    # Below fc2's size, too: it is not split for another reason.
    monkeypatch.setattr(sharding, "MIN_SPLIT_SIZE", 2**11)


def _config(data, model, **changes):
    config = tiny_config.get_config()
    config.model.alpha = 16
    config.optimizer.learning_rate = 0.1
    config.sharding.data, config.sharding.model = data, model
    for key, value in changes.items():
        group, name = key.split("__")
        config[group][name] = value
    return config


@functools.cache
def _program(data, model, float64=False):
    """An experiment and its compiled steps."""
    experiment = prepare(_config(data, model))
    if float64:
        experiment = in_dtype(experiment, jnp.float64)
    return experiment, programs.compile_train_steps(experiment)


def _advance(program, state, epochs):
    """The state and the losses after some whole epochs."""
    experiment, run = program
    split, losses = jax.device_put(experiment.dataset.train), []
    for _ in range(epochs):
        state, rows = run(state, split, np.int32(STEPS_PER_EPOCH))
        losses.append(rows["train/loss"])
    return state, np.concatenate(jax.device_get(losses))


def _trained(program):
    state, losses = _advance(program, programs.initial_state(program[0]), EPOCHS)
    return losses, np.asarray(state.params["fc1"]["kernel"])


@pytest.mark.slow
def test_in_float64_the_losses_are_those_of_one_device():
    with jax.enable_x64(True):
        want, kernel = _trained(_program(1, 1, float64=True))
        assert kernel.dtype == np.float64
        assert 0 < np.mean(kernel == 0) < 1
        for layout in LAYOUTS:
            got, same = _trained(_program(*layout, float64=True))
            np.testing.assert_allclose(got, want, rtol=1e-8)
            np.testing.assert_allclose(same, kernel, rtol=1e-8, atol=1e-12)


@pytest.mark.optimized
@pytest.mark.slow
def test_in_float32_the_first_losses_are_those_of_one_device_and_fifty_stay_near():
    want, _ = _trained(_program(1, 1))
    assert len(want) >= 50
    for layout in LAYOUTS:
        got, _ = _trained(_program(*layout))
        np.testing.assert_allclose(got[:10], want[:10], rtol=1e-5)
        # Later, rounding puts a weight on the other side of the threshold now and then, which
        # moves the loss by more than rounding does.
        np.testing.assert_allclose(got, want, rtol=2e-2)


@pytest.mark.optimized
def test_bytes_of_weights_and_momentum_fall_as_one_over_model():
    """By the program's own account, which counts the state as what it takes and gives back."""
    kept = {
        layout: _program(*layout)[1].memory_analysis().alias_size_in_bytes
        for layout in [(1, 1), *LAYOUTS]
    }
    shapes = _program(1, 1)[0].state_shapes.params
    # Weights and their momentum, float32.
    wide = 8 * sum(kernel.size for n, kernel in models.kernels(shapes).items() if n != "fc2")
    # What belongs to conv1's units lies with its columns: scale, bias and their momentum, mean
    # and variance. fc1 is split by rows, so what belongs to its units is everywhere.
    units = 16 * 16
    for layout in LAYOUTS:
        fallen = (wide + 6 * 4 * units) * (1 - 1 / layout[1])
        assert kept[1, 1] - kept[layout] == pytest.approx(fallen, rel=1e-3)
    # What is left is small: fc2, and fc1's normalisation.
    assert kept[1, 8] < wide / 8 + 24 * (24 * 16 + 10 * 24 * 16)


def _sizes(found):
    return sum(math.prod(shape) for _, shape in found.arrays)


@pytest.mark.optimized
def test_split_matrices_send_one_sum_of_activations_and_gather_nothing():
    _, program = _program(1, 8)
    found = collectives.read(program.as_text())
    assert {each.kind for each in found} == {"all-reduce"}
    sums = [each for each in found if each.every_step and each.arrays[0][0] == "f32"]
    # What fc1 computes, once a step: nothing of conv1, and nothing on the way back.
    assert [each.arrays for each in sums] == [(("f32", (128, 24 * 16)),)]
    # Otherwise the number of non-zeros of each matrix, and whether all is finite.
    assert sum(_sizes(each) for each in found if each.every_step) == 128 * 24 * 16 + 2


@pytest.mark.optimized
def test_a_split_batch_sends_one_sum_of_each_gradient():
    experiment, program = _program(8, 1)
    found = collectives.read(program.as_text())
    assert {each.kind for each in found} == {"all-reduce"}
    shapes = [shape for each in found for _, shape in each.arrays]
    kernels = models.kernels(experiment.state_shapes.params)
    for kernel in kernels.values():
        # As it is, or transposed.
        assert shapes.count(kernel.shape) + shapes.count(kernel.shape[::-1]) == 1
    matrices = sum(kernel.size for kernel in kernels.values())
    # Normalisation: mean and variance, and two sums for their gradients, for each unit.
    units = 16 * 16 + 24 * 16
    assert sum(_sizes(each) for each in found) == matrices + 4 * units + 10 + 2


@pytest.mark.optimized
def test_both_splits_together_send_what_each_sends_alone():
    experiment, program = _program(4, 2)
    found = collectives.read(program.as_text())
    assert {each.kind for each in found} == {"all-reduce"}
    across_model = [each for each in found if each.every_step and each.devices == 2]
    assert [_sizes(each) for each in across_model] == [32 * 24 * 16, 2]
    kernels = models.kernels(experiment.state_shapes.params)
    halves = (kernels["conv1"].size + kernels["fc1"].size) // 2
    across_data = sum(_sizes(each) for each in found if each.every_step and each.devices == 4)
    units = 16 * 16 // 2 + 24 * 16
    assert across_data == halves + kernels["fc2"].size + 4 * units + 10 + 2


@pytest.mark.optimized
def test_the_data_are_not_sent_and_augmentation_costs_nothing():
    cropped = collectives.read(_program(4, 2)[1].as_text())
    experiment = prepare(_config(4, 2, data__crop=0))
    plain = collectives.read(programs.compile_train_steps(experiment).as_text())
    assert [each.arrays for each in plain] == [each.arrays for each in cropped]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        # s_fc: the first layer needs no sum of gradients, the second reads what is split.
        ({"conv1": (784, 12544), "fc1": (12544, 1536), "fc2": (1536, 10)}, (1, 0, None)),
        # Logits are not split, however many units they read.
        ({"conv1": (3072, 88320), "fc1": (88320, 8280), "fc2": (8280, 10)}, (1, 0, None)),
        # d_fc: pairs of columns and rows, whatever their number.
        (
            {
                "conv1": (784, 8192),
                "conv2": (8192, 4096),
                "conv3": (4096, 4096),
                "fc1": (4096, 128),
            },
            (1, 0, 1, 0),
        ),
        # Sides that eight does not divide leave one choice, or none.
        ({"fc1": (784, 1001), "fc2": (1001, 2000)}, (0, 1)),
        ({"fc1": (783, 1001), "fc2": (1001, 1001)}, (None, None)),
    ],
)
def test_matrices_are_split_along_the_side_that_sends_least(shapes, expected):
    params = {n: {"kernel": jax.ShapeDtypeStruct(s, jnp.float32)} for n, s in shapes.items()}
    specs = sharding.kernel_specs(params, 8)
    axes = tuple(spec.index("model") if "model" in spec else None for spec in specs.values())
    assert axes == expected


@pytest.mark.slow
def test_a_checkpoint_of_eight_devices_goes_on_with_four_and_with_one(tmp_path):
    with jax.enable_x64(True):
        eight = _program(4, 2, float64=True)
        state, _ = _advance(eight, programs.initial_state(eight[0]), 2)
        saved = jax.device_get(state)
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(22, state)
        want = _advance(eight, state, 3)
        for layout in [(1, 1), (2, 2)]:
            fewer = _program(*layout, float64=True)
            like = fewer[0].state_shapes
            with Checkpoints(tmp_path) as checkpoints:
                step, state = checkpoints.restore(like)
            assert step == 22
            for got, was, place in zip(
                *(jax.tree.leaves(tree) for tree in (state, saved, like)), strict=True
            ):
                np.testing.assert_array_equal(np.asarray(got), was, strict=True)
                assert got.sharding.is_equivalent_to(place.sharding, got.ndim)
            got = _advance(fewer, state, 3)
            np.testing.assert_allclose(got[1], want[1], rtol=1e-8)
            for one, other in zip(*(jax.tree.leaves(each[0]) for each in (got, want)), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-12)


@pytest.mark.optimized
@pytest.mark.slow
def test_the_benchmark_counts_what_a_device_holds_and_sends():
    alpha, batch = 16, 64
    row = scaling.measure(alpha, 2, 4, batch)
    counts = models.count_weights("s_fc", alpha, (32, 32, 3), 10)
    assert row["weights"] == sum(counts.values())
    wide = counts["conv1"] + counts["fc1"]
    assert row["parameter_bytes"] == pytest.approx(wide + 4 * counts["fc2"], rel=1e-2)
    # The parameters, their momentum and the statistics are what the program takes and gives back.
    assert row["state_bytes"] == pytest.approx(2 * row["parameter_bytes"], rel=1e-2)
    sent = row["sent_bytes_by_axis"]
    # Of fc1's outputs, 32 examples; of the gradients, a fourth of each wide matrix.
    assert sent["model"] == pytest.approx(2 * 3 / 4 * 4 * 32 * 24 * alpha, rel=1e-3)
    assert sent["data"] == pytest.approx(wide + 4 * counts["fc2"], rel=2e-2)
    assert row["flops"] == batch * (4 * counts["conv1"] + 6 * (counts["fc1"] + counts["fc2"])) / 8
