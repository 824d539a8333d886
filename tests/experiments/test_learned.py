"""What a first layer learns: arms differ in what they say, and measures are of the network."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from lconv_jax import config as config_lib
from lconv_jax import models
from lconv_jax.config import with_overrides
from lconv_jax.experiments import learned, runs
from lconv_jax.experiments.learned import DENSE, SPARSE, TWINS, Cell
from lconv_jax.training import loop
from lconv_jax.training.exporting import restore
from tests.tiny_config import get_config


def test_arms_differ_in_their_data_alone_and_seeds_draw_other_surrogates():
    everything = [cell for group in learned.GROUPS for cell in learned.cells(group)]
    configs = learned.configs(runs.with_seeds(everything, 2))
    assert len(configs) == 2 * (2 * len(learned.ARMS) + 4)
    assert len({config_lib.digest(config) for config in configs.values()}) == len(configs)
    for cell, config in configs.items():
        config_lib.validate(config)
        plain = dict(config_lib.flatten(configs[cell._replace(arm="images")]))
        changed = {key for key, value in config_lib.flatten(config) if value != plain[key]}
        assert all(key.startswith("data.") for key in changed)
        other = configs[cell._replace(seed=1 - cell.seed)]
        redrawn = config.data.surrogate not in ("", "centred")
        assert (config.data.surrogate != other.data.surrogate) == redrawn


def test_the_penalty_is_that_of_the_longer_run():
    (config,) = learned.configs([Cell("images", SPARSE)]).values()
    longer = runs.get_config("sfc_fashion_mnist")
    steps = 10_000 // longer.train.batch_size + 1
    assert config.optimizer.reference_lr_sum == pytest.approx(steps * 300 / 2, rel=0.01)


def trained(folder, **changes):
    named = {key.replace("__", "."): value for key, value in changes.items()}
    short = {"train.epochs": 2, "checkpoint.every_epochs": 1, "model.alpha": 2, "data.crop": 0}
    loop.train_and_evaluate(with_overrides(get_config(), short | named), str(folder))
    return restore(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s_fc", "s_local", "s_conv"])
def test_any_first_layer_is_a_dense_one(tmp_path, name):
    setup, state, _ = trained(tmp_path, model__name=name, optimizer__name="sgd")
    outputs = learned.activations(setup, state)
    kernel = learned.dense_kernel(outputs, (8, 8, 1))
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    expected = outputs(images)["conv1"]
    np.testing.assert_allclose(images.reshape(5, -1) @ kernel, expected, atol=1e-4)
    if name == "s_fc":
        np.testing.assert_array_equal(kernel, models.kernels(state.params)["conv1"])


@pytest.mark.slow
def test_the_kernel_of_permuted_pixels_is_that_of_the_stored_ones(tmp_path):
    setup, state, _ = trained(tmp_path, data__permute=1)
    kernel = learned.dense_kernel(learned.activations(setup, state), (8, 8, 1))
    stored = jnp.asarray(setup.dataset.test.images[:5]).astype(jnp.float32)
    seen = setup.inputs.preprocess(stored).reshape(5, -1)
    own = models.kernels(state.params)["conv1"]
    assert not np.array_equal(kernel, own)
    np.testing.assert_allclose(stored.reshape(5, -1) @ kernel, seen @ own, atol=1e-3)


@pytest.mark.slow
def test_a_convolution_moves_with_the_image(tmp_path):
    # Twins are 0 where they are black, as is what a convolution sees beyond the border.
    more = {"model__name": "s_conv", "optimizer__name": "sgd", "data__surrogate": "gaussian"}
    setup, state, _ = trained(tmp_path, **more)
    outputs = learned.activations(setup, state)
    kernel = learned.dense_kernel(outputs, (8, 8, 1))
    rows = learned.moves(outputs, setup.dataset.test.images[: learned._IMAGES], kernel)
    assert len(rows) == len(learned._SHIFTS) * len(learned._LEFT)
    for row in rows:
        even = all(step % 2 == 0 for step in row["shift"])
        if row["left"] > 0.9 and row["units"]:
            assert (row["error"] < 0.05) == even, row


@pytest.mark.slow
def test_everything_is_measured_shown_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(learned, "_SIZE", {"model.alpha": 1, "train.epochs": 10, "data.crop": 0})
    kept = str(tmp_path / "kept.json")
    small = {"data.name": "digits", "train.batch_size": 128, "data.examples": 300}
    cells = [Cell("images", SPARSE), Cell("images", DENSE), Cell("images", TWINS[1])]
    cells.append(Cell("permuted", SPARSE))
    for cell, config in learned.configs(cells).items():
        count = 9.0 if cell.method == DENSE else None
        measure = functools.partial(learned.measure, count=count)
        runs.run_all({cell: with_overrides(config, small)}, str(tmp_path), kept, measure=measure)
    results = runs.kept(kept, cells)
    sparse, dense, conv, permuted = results.values()
    assert sparse["curve"]["epoch"] == list(range(1, 11))
    assert sparse["curve"]["density"][-1] == pytest.approx(
        sparse["metrics"]["sparsity/conv1/nonzeros"] / sparse["weights"]["conv1"]
    )
    assert dense["curve"]["density"][-1] == 1
    assert dense["cut"]["margins"]["window"] != dense["fields"]["margins"]["window"]
    assert "curve" not in permuted
    assert permuted["fields, as cropped"] != permuted["fields"]
    # A convolution of one channel, whose windows the border cuts here.
    assert conv["stencils"]["size"] <= 2 < conv["stencils"]["null"]
    text = learned.table(results)
    assert text.count("| s_fc, β-lasso |") == 4
    learned.draw(results, str(tmp_path))
    assert (tmp_path / "learned.png").stat().st_size > 10_000
