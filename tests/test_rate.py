"""The rate is the length of the file, its gradient the cost of a level, and fixed zeros stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from lconv_jax import data, mdl, shorten
from lconv_jax.compression import folding, rate, rate_search, search
from lconv_jax.compression.levels import choose_scales, in_levels
from lconv_jax.errors import ConfigError
from lconv_jax.mdl import language
from lconv_jax.mdl.quantize import equalize
from tests.test_shorten import network

# Shapes, the choice of codes and framing are in the file only; learned frequencies cost a little.
_SHARE, _BITS = 0.08, 320


def random_network(density, units, depth, seed=0):
    rng = np.random.default_rng(seed)
    layers = []
    for source, (inputs, outputs, share) in enumerate([(64, units, density), (units, 10, 0.6)]):
        kernel = np.clip(np.rint(rng.normal(size=(inputs, outputs)) * depth / 2), -depth, depth)
        kernel = kernel.astype(np.int64) * (rng.random(kernel.shape) < share)
        bias = rng.integers(-15, 16, outputs)
        layers.append(mdl.Layer((mdl.Term("dense", source, 1, kernel),), bias))
    return mdl.Network((8, 8, 1), "black", tuple(layers))


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("units", [12, 40])
@pytest.mark.parametrize("depth", [1, 3, 7])
def test_the_rate_is_the_length_of_the_file(density, units, depth):
    made = random_network(density, units, depth)
    bits = 8 * len(mdl.encode(made))
    assert abs(float(rate.network_bits(made, depth)) - bits) < _SHARE * bits + _BITS


def test_a_kernel_that_is_all_zero_costs_next_to_nothing():
    assert 0 <= float(rate.kernel_bits(jnp.zeros((784, 100)), 3)) < 4
    assert 0 <= float(rate.bias_bits(jnp.zeros(100))) < 4


def test_the_gradient_pulls_rare_weights_to_zero():
    kernel = np.zeros((64, 12), np.float32)
    kernel[:5, 0] = [0.6, -0.6, 0.4, -0.4, 2.0]
    gradient = np.asarray(jax.grad(rate.kernel_bits)(jnp.asarray(kernel), 3))
    assert (np.sign(gradient[:4, 0]) == np.sign(kernel[:4, 0])).all()
    assert (abs(gradient[:4, 0]) > 3).all(), "a place among 768 and a value"


def test_between_levels_the_rate_is_interpolated():
    kernel = np.asarray(random_network(0.3, 12, 3).layers[0].terms[0].kernel, np.float32)
    at = tuple(np.argwhere(kernel == 1)[0])
    values = []
    for share in (0.0, 0.25, 0.5 - 1e-3):
        moved = kernel.copy()
        moved[at] += share
        values.append(float(rate.kernel_bits(moved, 3)))
    slope = float(jax.grad(rate.kernel_bits)(jnp.asarray(moved), 3)[at])
    np.testing.assert_allclose(np.diff(values), [0.25 * slope, 0.249 * slope], atol=2e-3)


def test_a_local_kernel_has_its_units_at_every_position():
    kernel = jnp.arange(2 * 3 * 5 * 4 * 7.0).reshape(2, 3, 5, 1, 4, 7)
    term = mdl.Term("local", 0, 1, np.asarray(kernel).astype(np.int64))
    np.testing.assert_array_equal(rate.as_matrix("local", kernel), language.as_matrix(term))


def trained(price, fixed):
    """Rounded weights of a small network after a cycle on digits, and its masks."""
    floats = equalize(network("s_fc", density=0.2))
    scales = choose_scales(floats, 3, 4)
    levels = in_levels(floats, scales)
    tree = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), folding.weights(levels))
    masks = rate_search.nonzeros(tree)
    if not fixed:
        masks = jax.tree.map(jnp.ones_like, masks)
    digits = data.load("digits").train
    chosen = digits.labels < 4
    x = jnp.asarray(digits.images[chosen] / 63.75 - 2, jnp.float32)
    params = {"levels": tree, "temperature": jnp.zeros(())}
    run = rate_search.make_cycle(levels, scales, 3)
    y = jnp.asarray(digits.labels[chosen])
    params, _ = run(params, masks, x, y, jax.random.key(0), 60, price, (1.0, 0.3))
    kernels = [jnp.round(k) for layer in params["levels"] for k in layer["kernels"]]
    return kernels, [mask for row in masks for mask in row]


@pytest.mark.slow
def test_fixed_zeros_stay_zero():
    kernels, masks = trained(1e-4, fixed=True)
    for kernel, mask in zip(kernels, masks, strict=True):
        assert not np.any(kernel[~mask])


@pytest.mark.slow
def test_a_higher_price_leaves_fewer_weights():
    cheap, dear = (
        sum(int(jnp.count_nonzero(k)) for k in trained(price, fixed=False)[0])
        for price in (0.0, 1e-2)
    )
    assert dear < 0.7 * cheap


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s_fc", "s_conv", "s_local"])
def test_a_search_writes_files_of_falling_length(name):
    digits = data.load("digits").train
    split = data.Split(digits.images[digits.labels < 4], digits.labels[digits.labels < 4])
    options = rate_search.Options(steps=120, start=300, prices=(1e-4, 5e-3))
    found = list(rate_search.search(network(name), split, 0.05, options))
    assert found
    for file, certificate in found:
        decoded = mdl.decode(file)
        assert certificate.bits == 8 * len(file)
        wrong = mdl.count_errors(decoded, split.images, split.labels)
        assert certificate.errors == wrong
    assert found[-1][1].bits < found[0][1].bits
    assert min(certificate.error for _, certificate in found) < 0.2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], search.Options()),
        (["--depth=5", "--keep=0.9"], search.Options(depth=5, keep=0.9)),
        (["--method=rate"], rate_search.Options()),
        (
            ["--method=rate", "--steps=9", "--prices=1e-5,3e-5"],
            rate_search.Options(steps=9, prices=(1e-5, 3e-5)),
        ),
    ],
)
def test_the_method_has_its_own_defaults(given, expected):
    values = flags.FlagValues()
    shorten.define_flags(values)
    values(["shorten", *given])
    assert shorten.options_of(values) == expected


@pytest.mark.parametrize("prices", ["1e-5,dear", "-1", "nan", ""])
def test_a_price_is_a_number(prices):
    values = flags.FlagValues()
    shorten.define_flags(values)
    values(["shorten", "--method=rate", f"--prices={prices}"])
    with pytest.raises(ConfigError, match="--prices"):
        shorten.options_of(values)
