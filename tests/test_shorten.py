"""What is trained under rounding is what the file holds; what is removed stays away."""

import itertools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lconv_jax import data, describe, mdl, models, shorten
from lconv_jax.compression import certify, folding, search
from lconv_jax.compression.levels import (
    choose_scales,
    count_levels,
    drop_dead_units,
    in_levels,
    integer_network,
    remove,
    round_straight_through,
    rounded,
)
from lconv_jax.mdl import untrusted
from lconv_jax.mdl.network import INPUT_SCALE, INPUTS
from lconv_jax.mdl.quantize import equalize
from tests import tiny_config
from tests.mdl.networks_made import crafted

SHAPE = (8, 8, 1)


def network(name, seed=0, density=0.3):
    """A random sparse network with floating-point weights."""
    rng = np.random.default_rng(seed)
    model = models.create(name, alpha=2, num_classes=4)
    variables = model.init(jax.random.key(seed), jnp.zeros((1, *SHAPE)))
    exported = folding.fold(model, jax.device_get(variables), SHAPE)
    tree = [
        {
            "kernels": [k * (rng.random(k.shape) < density) for k in layer["kernels"]],
            "bias": 0.1 * rng.normal(size=layer["bias"].shape),
        }
        for layer in folding.weights(exported)
    ]
    return folding.with_weights(exported, tree)


def levels_of(floats, depth=7, bias_bits=4):
    scales = choose_scales(floats, depth, bias_bits)
    return in_levels(floats, scales), scales


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s_fc", "s_conv", "s_local", "d_conv", "d_fc"])
def test_the_rounded_network_is_the_integer_one_up_to_a_factor(name):
    levels, scales = levels_of(equalize(network(name)))
    # Deep networks drop bits on the way.
    assert any(scales.shift) == name.startswith("d_")
    assert scales.shift[-1] == 0
    images = np.random.default_rng(1).integers(0, 256, (20, *SHAPE)).astype(np.uint8)
    masks = [[jnp.asarray(t.kernel != 0) for t in layer.terms] for layer in levels.layers]
    inputs = INPUTS["centred"](images) / INPUT_SCALE["centred"]
    trained = np.asarray(folding.apply(rounded(levels, scales, masks), inputs))
    exact = mdl.evaluate(integer_network(levels, scales), images).astype(float)
    factor = (trained * exact).sum() / (exact**2).sum()
    assert np.abs(exact).max() > 0
    np.testing.assert_allclose(trained, factor * exact, atol=1e-4 * np.abs(trained).max())


def test_rounding_lets_the_gradient_through():
    x = jnp.asarray([0.2, 0.7, -1.4])
    value, gradient = jax.value_and_grad(lambda x: (round_straight_through(x) ** 2).sum())(x)
    assert value == 0 + 1 + 1
    np.testing.assert_allclose(gradient, 2 * np.round(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s_fc", "s_conv"])
def test_dropping_dead_units_changes_no_prediction(name):
    floats = network(name, density=0.05)
    # A unit without inputs would be a constant; the search trains that away.
    tree = folding.weights(floats)
    for layer in tree[:-1]:
        alive = (layer["kernels"][0] != 0).any(tuple(range(layer["kernels"][0].ndim - 1)))
        layer["bias"] = np.where(alive, layer["bias"], 0)
    floats = folding.with_weights(floats, tree)
    smaller = drop_dead_units(floats)
    assert mdl.count_weights(smaller)[0] < mdl.count_weights(floats)[0]
    inputs = np.random.default_rng(2).normal(size=(10, *SHAPE))
    np.testing.assert_allclose(
        folding.apply(smaller, inputs), folding.apply(floats, inputs), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_removal_keeps_the_share_and_the_most_useful():
    levels, _ = levels_of(equalize(network("s_fc")))
    moments = [
        {"kernels": [np.ones(t.kernel.shape) for t in layer.terms]} for layer in levels.layers
    ]
    before = count_levels(levels)
    after = remove(levels, moments, 0.6)
    assert count_levels(after) == before - round(0.4 * before)
    for old, new in zip(levels.layers, after.layers, strict=True):
        was, now = np.rint(old.terms[0].kernel), np.rint(new.terms[0].kernel)
        kept, gone = np.abs(was[now != 0]), np.abs(was[(was != 0) & (now == 0)])
        assert not gone.size or not kept.size or gone.max() <= kept.min()
        assert np.array_equal(new.terms[0].kernel[now != 0], old.terms[0].kernel[now != 0])


@pytest.mark.slow
def test_removal_goes_on_where_weights_are_few_or_score_alike():
    levels, _ = levels_of(equalize(network("s_fc", density=0.02)))
    for moment in (0.0, 1.0):
        moments = [
            {"kernels": [np.full(t.kernel.shape, moment) for t in layer.terms]}
            for layer in levels.layers
        ]
        before = count_levels(levels)
        assert count_levels(remove(levels, moments, 0.8)) == before - round(0.2 * before)
        assert count_levels(remove(levels, moments, 0.999)) == before - 1


@pytest.mark.slow
def test_a_masked_weight_is_no_part_of_the_trained_network():
    levels, scales = levels_of(equalize(network("s_fc")))
    masks = [[jnp.asarray(t.kernel != 0) for t in layer.terms] for layer in levels.layers]
    tree = folding.weights(levels)
    for layer in tree:
        layer["kernels"] = [np.where(k == 0, 5.0, k) for k in layer["kernels"]]
    grown = folding.with_weights(levels, tree)
    inputs = np.random.default_rng(1).normal(size=(5, *SHAPE))
    np.testing.assert_array_equal(
        folding.apply(rounded(grown, scales, masks), inputs),
        folding.apply(rounded(levels, scales, masks), inputs),
    )


@pytest.mark.slow
def test_a_deep_network_is_shortened():
    digits = data.load("digits").train
    split = data.Split(digits.images[digits.labels < 4], digits.labels[digits.labels < 4])
    options = search.Options(steps=300)
    found = search.search(network("d_conv", density=1.0), split, 0.05, options)
    file, certificate = next(found)
    decoded = mdl.decode(file)
    assert any(layer.shift for layer in decoded.layers)
    # It has learned something, and the file knows it.
    assert certificate.error < 0.5
    assert mdl.count_errors(decoded, split.images, split.labels) == certificate.errors


@pytest.mark.slow
def test_a_search_never_brings_a_weight_back(monkeypatch):
    monkeypatch.setattr(search, "_GIVE_UP", 0.02)
    digits = data.load("digits").train
    floats = network("s_fc", density=0.1)
    supports = []

    def watched(levels, *rest):
        levels = remove(levels, *rest)
        supports.append([t.kernel != 0 for layer in levels.layers for t in layer.terms])
        return levels

    monkeypatch.setattr(search, "remove", watched)
    monkeypatch.setattr(search, "_COMPACT", 0.0)  # one shape, so that supports can be compared
    split = data.Split(digits.images[digits.labels < 4], digits.labels[digits.labels < 4])
    counts = []
    for file, certificate in search.search(floats, split, 0.05, search.Options(steps=80)):
        decoded = mdl.decode(file)
        counts.append(mdl.count_weights(decoded)[1])
        assert certificate.bits == 8 * len(file)
    assert len(counts) > 2
    for before, after in itertools.pairwise(supports):
        for was, now in zip(before, after, strict=True):
            assert not (now & ~was).any()
    for count, support in zip(counts[1:], supports, strict=False):
        assert count <= sum(int(part.sum()) for part in support)


def network_of_digits(kernel):
    """A network of one layer for the digits."""
    layer = mdl.Layer((mdl.Term("dense", 0, 1, kernel),), np.zeros(10, np.int64))
    return mdl.Network(SHAPE, "black", (layer,))


def test_a_search_removes_its_own_files_only(tmp_path, monkeypatch):
    """Whatever frontier.json names stays, and so does what somebody else put beside it."""
    random = np.random.default_rng(0)
    made = network_of_digits(random.integers(-9, 10, (64, 10)))
    digits = data.load("digits")
    file, longer = mdl.encode(made), mdl.encode(made, "raw")
    certificate = certify.certify(file, digits.train, 0.05)
    run_dir = tmp_path / "a" / "run"
    folder = run_dir / "short"
    folder.mkdir(parents=True)
    own = folder / f"{8 * len(longer):07d}.lconv"
    others = [tmp_path / "victim", folder / "0000001.lconv", folder / "mine.lconv"]
    for path in (own, *others):
        path.write_bytes(longer)
    names = [str(tmp_path / "victim"), "../../../victim", "0000001.lconv", "mine.lconv"]
    listed = [{"file": name, "bits": 10**8, "train_error": 1, "kl_bound": 0} for name in names]
    (folder / "frontier.json").write_text(json.dumps(listed))

    experiment = SimpleNamespace(dataset=digits, config=tiny_config.get_config())
    monkeypatch.setattr(shorten, "restore_network", lambda _: (experiment, None, 0))
    monkeypatch.setattr(shorten, "search", lambda *_, **__: [(file, certificate)])
    decode_all = lambda files: {name: mdl.decode(each) for name, each in files.items()}  # noqa: E731
    monkeypatch.setattr(untrusted, "decode", decode_all)
    rows = shorten.shorten(str(run_dir))
    assert all(path.read_bytes() == longer for path in others)
    assert not own.exists(), "longer, and of the same error"
    assert [row["bits"] for row in rows] == [8 * len(file)]
    # The table is written from the files, whatever it was.
    for text in (None, "[{", "{}"):
        path = folder / "frontier.json"
        path.unlink() if text is None else path.write_text(text)
        assert shorten.shorten(str(run_dir)) == rows
        assert json.loads(path.read_text()) == rows


@pytest.mark.slow
def test_a_file_of_a_run_that_asks_for_too_much_is_named(tmp_path):
    path = tmp_path / "short" / "0000136.lconv"
    path.parent.mkdir()
    path.write_bytes(crafted("full", units=2**24))
    with pytest.raises(ValueError, match=f"^{path}: .* it asks for more work .* move it elsewhere"):
        describe.certified_files(str(tmp_path), data.load("digits").train, 0.05)
