"""Transfer: supports keep what they say, arms differ in what they say, and all is kept."""

import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lconv_jax
from lconv_jax import analysis, models
from lconv_jax.experiments import runs, transfer
from lconv_jax.experiments.transfer import Cell

PAIR = ("fashion_mnist_small", "fashion_mnist_small")


def test_every_arm_is_there_once():
    cells = transfer.cells()
    assert len(set(map(str, cells))) == len(cells)
    per_pair = {pair: 0 for pair in transfer.PAIRS}
    for cell in cells:
        if cell.source and cell.target:
            per_pair[cell.source, cell.target] += 1
    assert set(per_pair.values()) == {2 * 6, 2 * 4}
    # What A teaches comes before what is taught.
    first = {cell.source: cells.index(cell) for cell in cells if cell.arm == "learn"}
    assert set(first) == set(transfer.SETS)
    assert all(
        first[cell.source] < cells.index(cell) for cell in cells if cell.target and cell.source
    )


def test_the_convolution_s_windows_are_those_of_the_network():
    mask = transfer.convolution()
    assert mask.shape == (784, 4 * 14 * 14)
    # Nine wide, cut off at the border; the middle ones are whole.
    assert mask.sum(0).max() == 81
    side = analysis.energy_window(mask.astype(float), (28, 28, 1), share=1.0).side
    assert side.max() == 9
    conv = models.count_weights("s_conv", 4, (28, 28, 1), 10)["conv1"]
    assert mask.sum() < 14 * 14 * conv


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), density=st.floats(0, 0.3))
def test_random_supports_keep_the_counts(seed, density):
    rng = np.random.default_rng(seed)
    mask = rng.random((784, 12)) < density
    for draw in transfer._SHUFFLED.values():
        np.testing.assert_array_equal(draw(mask, rng).sum(0), mask.sum(0))
    np.testing.assert_array_equal(transfer._SHUFFLED["margins"](mask, rng).sum(1), mask.sum(1))
    local = transfer.random_windows(mask, rng)[:, mask.sum(0) > 0].astype(float)
    if local.size:
        sides = analysis.energy_window(local, (28, 28, 1), share=1.0).side
        assert (sides <= np.maximum(9, np.ceil(np.sqrt(local.sum(0))))).all()


@pytest.mark.slow
def test_what_is_learned_is_transferred_and_all_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "EXAMPLES", {200: 1})
    monkeypatch.setattr(transfer, "PAIRS", (PAIR,))
    monkeypatch.setattr(transfer, "_LOOK", transfer._LOOK | {"data.size": 14, "model.alpha": 1})
    monkeypatch.setattr(transfer, "_SHAPE", (14, 14, 1))
    short = {"data.examples": 1000, "train.batch_size": 100, "train.epochs": 3}
    monkeypatch.setattr(transfer, "_LEARN", {**transfer._LEARN, **short})
    folder, kept = str(tmp_path / "runs"), str(tmp_path / "kept.json")
    options = types.SimpleNamespace(
        **{"runs_dir": folder, "results": kept, "figures": str(tmp_path), "data_dir": ""},
        **{"seeds": 1, "sets": list(transfer.SETS)},
    )
    transfer.train_missing(options)
    text = transfer.show(options)
    assert (tmp_path / "transfer.png").exists()
    assert "| Fashion-MNIST | Fashion-MNIST | 200 |" in text
    results = runs.kept(kept, transfer.cells([PAIR]))
    assert len(results) == 1 + 6
    assert str(tmp_path) not in str(results)
    learned = transfer.support(f"{folder}/{Cell(PAIR[0], '', 'learn')}")
    counts = {
        cell.arm: result["metrics"]["sparsity/conv1/nonzeros"] for cell, result in results.items()
    }
    for arm in ("learn", "support", "margins", "counts", "local"):
        assert counts[arm] == learned.sum()
    assert counts["dense"] == learned.size
    run = lconv_jax.load_run(f"{folder}/{Cell(*PAIR, 'support', 200)}")
    np.testing.assert_array_equal(run.params["conv1"]["kernel"] != 0, learned)
    # Frozen, the filters stay those of A.
    frozen = Cell(PAIR[0], PAIR[1], "frozen", 200)
    config = transfer.config_of(frozen, folder, "")
    runs.run_all({frozen: config}, folder, kept)
    first, last = (
        lconv_jax.load_run(f"{folder}/{cell}").params["conv1"]["kernel"]
        for cell in (Cell(PAIR[0], "", "learn"), frozen)
    )
    np.testing.assert_array_equal(first, last)
