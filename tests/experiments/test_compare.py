"""The bench: equal trials, equal densities, and results that are those of the runs."""

import json
import math
import types

import numpy as np
import pytest

from lconv_jax import config as config_lib
from lconv_jax import models
from lconv_jax.compression import certify
from lconv_jax.experiments import compare, runs
from lconv_jax.experiments.compare import REFERENCE, Cell, Study
from lconv_jax.optim.registry import METHODS as REGISTRY
from lconv_jax.training.exporting import restore, restore_network


def test_every_method_chooses_from_as_many_settings():
    study = Study("fashion_mnist")
    sizes = {
        method: math.prod(map(len, compare.grid_of(study, method).values()))
        for method in compare.GRIDS
    }
    assert set(sizes.values()) == {4}


def test_the_bench_has_every_optimizer_and_all_share_what_is_no_setting():
    assert set(compare.GRIDS) == set(REGISTRY) - {"fixed_masks"}
    for bench in compare.BENCHES:
        shared = set()
        for method in compare.GRIDS:
            study = Study(bench)
            config = compare.base_config(study, method, {})
            held_out = {"data.validation": compare.BENCHES[bench].validation}
            config_lib.validate(config_lib.with_overrides(config, held_out))
            grid = compare.grid_of(study, method)
            assert set(grid) <= set(config_lib.KEYS)
            # What a method is chosen from, it reads.
            keys = {f"optimizer.{key}" for key in REGISTRY[method].keys}
            assert set(grid) <= keys
            flat = {k: v for k, v in config_lib.flatten(config) if not k.startswith("optimizer.")}
            inner = {k: getattr(config.optimizer, k) for k in ("learning_rate", "momentum")}
            shared.add(json.dumps(flat | inner, sort_keys=True))
        assert len(shared) == 1


def test_beta_lasso_comes_first_of_every_seed():
    cells = runs.with_seeds(compare.cells(["rigl", "sgd"]), 2)
    assert [str(cell) for cell in cells] == [
        *("beta_lasso, seed 0", "rigl, seed 0", "sgd, seed 0"),
        *("beta_lasso, seed 1", "rigl, seed 1", "sgd, seed 1"),
    ]
    study = Study("digits", results="nowhere")
    with pytest.raises(ValueError, match="rigl, seed 1 needs the result of beta_lasso, seed 1"):
        compare.config_of(study, Cell("rigl", 1))


@pytest.mark.slow
def test_a_cut_layer_has_its_largest_weights():
    kernel = np.array([[3.0, -4.0, 0.5], [0.1, 1.0, -2.0]])
    np.testing.assert_array_equal(compare.cut(kernel, 0.5), [[3, -4, 0], [0, 0, -2]])
    assert np.count_nonzero(compare.cut(kernel, 1e-9)) == 1


def test_densities_are_written_as_a_configuration_takes_them():
    result = {
        "weights": {"conv1": 100, "block1/conv2": 7},
        "metrics": {"sparsity/conv1/nonzeros": 3, "sparsity/block1/conv2/nonzeros": 0},
    }
    text = compare.written(compare.densities(result))
    assert text == "conv1=0.03,block1/conv2=1e-09"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The study of a small bench, whose methods have one setting each, and what was printed."""
    folder = tmp_path_factory.mktemp("compare")
    study = Study("digits", "s_fc", "", str(folder / "runs"), str(folder / "results"))
    options = types.SimpleNamespace(
        **{"data": "digits", "model": "s_fc", "data_dir": "", "seeds": 1},
        **{"runs_dir": study.runs_dir, "results": study.results},
        figures=str(folder / "figures"),
        methods=[REFERENCE, "l1_subgradient", "rigl", "support_tuned", "support_shuffled"],
    )
    with pytest.MonkeyPatch.context() as patch:
        grids = {
            name: {key: values[:1] for key, values in grid.items()}
            for name, grid in compare.GRIDS.items()
        }
        patch.setattr(compare, "GRIDS", grids)
        compare.train_missing(options)
        # All is kept: nothing trains again.
        patch.setattr(runs.loop, "train_and_evaluate", None)
        compare.train_missing(options)
        text = compare.show(options)
    return study, text, folder


@pytest.mark.slow
def test_methods_with_masks_have_the_reference_s_density_in_each_layer(trained):
    study, text, folder = trained
    kept = runs.kept(study.file(), [Cell(name) for name in compare.METHODS])
    assert [cell.method for cell in kept] == [
        *(REFERENCE, "l1_subgradient", "rigl", "support_tuned", "support_shuffled")
    ]
    wanted = compare.densities(kept[Cell(REFERENCE)])
    assert 0 < wanted["conv1"] < 1
    assert compare.densities(kept[Cell("rigl")]) == wanted
    assert compare.densities(kept[Cell("support_shuffled")]) == wanted
    # It goes on from a trained network, on the same weights, and no result says where files lie.
    tuned = kept[Cell("support_tuned")]
    assert compare.densities(tuned) == wanted
    assert tuned["config"]["train.start"] == str(Cell(REFERENCE))
    assert str(folder) not in json.dumps(runs.read_kept(study.file()))
    plain = kept[Cell("l1_subgradient")]
    sizes = plain["weights"]
    total = sum(wanted[name] * sizes[name] for name in sizes) / sum(sizes.values())
    assert plain["cut"]["density"] == pytest.approx(total)
    assert compare.densities(plain) == dict.fromkeys(sizes, 1.0)
    # Bits are those of a file, whose network makes the errors that it is said to make.
    setup, network, _ = restore_network(f"{study.folder('runs')}/{Cell('l1_subgradient')}")
    file, certificate = certify.shortest_description(
        network, setup.dataset.train, 0.05, depths=(3, 7, 15), refine=False
    )
    assert plain["description"] == certificate.metrics()
    assert plain["description"]["mdl/bits"] == 8 * len(file)
    assert plain["cut"]["description"]["mdl/bits"] < 0.8 * 8 * len(file)
    # Dense and sparse operations of one layer each.
    flops = kept[Cell("rigl")]["flops"]
    assert flops["test"] == pytest.approx(2 * sum(wanted[name] * sizes[name] for name in sizes))
    assert flops["training"] < 1.3 * total * flops["training, dense"]
    assert kept[Cell(REFERENCE)]["flops"]["training"] > flops["training"]
    assert text.count("\n") == 6
    assert {path.name for path in (folder / "figures").iterdir()} == {
        *("compare-digits-s_fc.png", "compare-digits-s_fc-filters.png")
    }


@pytest.mark.slow
def test_a_shuffled_support_keeps_the_counts_of_units_and_pixels(trained):
    study, _, _ = trained
    supports = [
        {
            name: np.asarray(kernel) != 0
            for name, kernel in models.kernels(
                restore(f"{study.folder('runs')}/{Cell(method)}")[1].params
            ).items()
        }
        for method in (REFERENCE, "support_shuffled")
    ]
    for name, mask in supports[0].items():
        other = supports[1][name]
        np.testing.assert_array_equal(mask.sum(0), other.sum(0))
        np.testing.assert_array_equal(mask.sum(1), other.sum(1))
    assert not np.array_equal(supports[0]["conv1"], supports[1]["conv1"])
