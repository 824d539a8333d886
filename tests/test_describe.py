"""A run is described, shortened and predicted from, on scikit-learn's digits."""

import json
import os
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from lconv_jax import config, data, mdl
from lconv_jax.compression import certify, folding
from lconv_jax.compression.search import Options
from lconv_jax.config import with_overrides
from lconv_jax.describe import code_lengths, describe, restore_network
from lconv_jax.mdl.network import INPUT_SCALE, INPUTS
from lconv_jax.rundir import facts
from lconv_jax.rundir.metrics import read_metrics
from lconv_jax.shorten import FRONTIER_FILE, shorten
from lconv_jax.training import loop
from tests import processes
from tests.tiny_config import get_config

SPARSE = {
    "model.alpha": 2,
    "data.crop": 0,
    "optimizer.learning_rate": 1.0,
    "optimizer.momentum": 0.0,
    "optimizer.l1.conv": 1e-2,
    "optimizer.l1.fc": 1e-2,
    "train.epochs": 30,
    "log.eval_every_epochs": 15,
    "log.describe_every_epochs": 15,
    "checkpoint.every_epochs": 30,
}


def command(module, *arguments):
    """(exit status, standard output, standard error)."""
    return processes.run(f"lconv_jax.{module}", *arguments)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("run"))
    loop.train_and_evaluate(with_overrides(get_config(), SPARSE), directory)
    return directory


@pytest.mark.slow
def test_the_exported_network_is_the_evaluated_one(run_dir):
    setup, network, step = restore_network(run_dir)
    test = setup.dataset.test
    inputs = INPUTS[network.input_code](test.images) / INPUT_SCALE[network.input_code]
    logits = folding.apply(network, jnp.asarray(inputs, jnp.float32))
    accuracy = np.mean(np.argmax(logits, 1) == test.labels)
    last = read_metrics(run_dir)[-1]
    assert step == last["step"]
    evaluated = [line["eval/accuracy"] for line in read_metrics(run_dir) if "eval/accuracy" in line]
    # One example may lie on the edge of two classes.
    assert accuracy == pytest.approx(evaluated[-1], abs=1.5 / len(test.labels))


@pytest.mark.slow
def test_a_certificate_is_about_the_file_and_every_training_example(run_dir):
    file, certificate, _, setup, _ = describe(run_dir)
    split = setup.dataset.train
    wrong = mdl.predict(mdl.decode(file), np.asarray(split.images)) != split.labels
    assert certificate == certify.Certificate(8 * len(file), wrong.sum(), 1437, 0.05)
    assert certificate.bounds()["kl"] == mdl.kl_bound(wrong.mean(), 8 * len(file), 1437, 0.05)


@pytest.mark.slow
def test_a_certificate_is_never_claimed_by_the_loop(run_dir):
    """A step's line has estimates alone; a description's line was counted on the file's bits."""
    claims = certify.Certificate(8, 1, 2, 0.05).metrics().keys()
    assert {"mdl/bits", "mdl/occam_bound", "mdl/kl_bound"} <= claims
    lines = read_metrics(run_dir)
    trained = [line for line in lines if "train/loss" in line]
    assert len(trained) == 30 * (1437 // 128)
    for line in trained:
        assert "mdl/estimate_bits" in line
        assert not claims & line.keys()
    claimed = [line for line in lines if claims & line.keys()]
    assert [line["step"] for line in claimed] == [15 * (1437 // 128), 30 * (1437 // 128)]
    assert all(claims <= line.keys() for line in claimed)


@pytest.mark.slow
def test_what_is_logged_as_certified_is_not_the_estimate(run_dir):
    lines = [line for line in read_metrics(run_dir) if "mdl/bits" in line]
    per_epoch = 1437 // 128
    assert [line["step"] for line in lines] == [15 * per_epoch, 30 * per_epoch]
    setup, network, _ = restore_network(run_dir)
    file, certificate = certify.shortest_description(
        network, setup.dataset.train, 0.05, depths=(3, 7, 15), refine=False
    )
    assert lines[-1].items() >= certificate.metrics().items()
    for line in read_metrics(run_dir):
        assert not ("mdl/estimate_bits" in line and "mdl/bits" in line)
    estimate = [line for line in read_metrics(run_dir) if "mdl/estimate_bits" in line][-1]
    assert estimate["mdl/estimate_bits"] != 8 * len(file)


@pytest.mark.slow
def test_a_dense_network_is_rounded_again_only_where_its_bound_says_something(run_dir, monkeypatch):
    setup, network, _ = restore_network(run_dir)
    train, tried = setup.dataset.train, []

    def quantize(network, depths, **options):
        tried.append(set(depths))
        return mdl.quantize.quantize(network, depths, **options)

    monkeypatch.setattr(certify, "quantize", quantize)
    monkeypatch.setattr(certify, "_MANY", 100)
    _, certificate = certify.shortest_description(network, train, 0.05)
    assert certificate.bounds()["kl"] < 0.99
    assert tried == [{7}, {3}, {15}]
    tried.clear()
    wrong = train._replace(labels=(train.labels + 1) % 10)
    _, certificate = certify.shortest_description(network, wrong, 0.05)
    assert certificate.bounds()["kl"] > 0.99
    assert tried == [{7}]


@pytest.mark.slow
def test_what_was_rounded_is_kept_until_the_network_or_the_file_changes(run_dir, tmp_path):
    copy = str(tmp_path / "run")
    shutil.copytree(run_dir, copy, ignore=shutil.ignore_patterns("rounded"))
    told = []
    first = describe(copy, told.append)
    again = describe(copy, told.append)
    assert again.file == first.file
    assert again.certificate == first.certificate
    assert sum("rounding" in line for line in told) == 1
    (kept,) = os.listdir(os.path.join(copy, "rounded"))
    path = os.path.join(copy, "rounded", kept)
    with open(path, "r+b") as stream:
        stream.truncate(20)
    assert describe(copy, told.append).file == first.file
    assert sum("rounding" in line for line in told) == 2
    # A file of another network is not taken, and does not stay.
    other = os.path.join(copy, "rounded", f"{'0' * 16}.lconv")
    os.rename(path, other)
    assert describe(copy, told.append).file == first.file
    assert sum("rounding" in line for line in told) == 3
    assert os.listdir(os.path.join(copy, "rounded")) == [kept]


@pytest.mark.slow
def test_describe_and_predict_print_the_same_test_error(run_dir, tmp_path):
    file, classes = str(tmp_path / "model.lconv"), str(tmp_path / "classes.txt")
    shutil.rmtree(os.path.join(run_dir, "rounded"), ignore_errors=True)
    status, described, err = command("describe", run_dir, f"--out={file}")
    assert status == 0, err
    assert "weights that are not zero ...\ncomparing codes" in err
    status, predicted, err = command(
        "predict", file, "--data=digits", "--split=test", f"--out={classes}"
    )
    assert status == 0, err
    _, certificate, _, setup, step = describe(run_dir)
    split = setup.dataset.train
    rows = re.findall(r"^ *(\w+) +([\d,]+) +([\d.]+) +([\d.]+) +([\d.]+) *$", described, re.M)
    assert {row[0] for row in rows} >= {"raw", "unit", "shortest"}
    kept = facts.read_description(run_dir)
    assert {name: f"{row['bits']:,}" for name, row in kept["codes"].items()} == {
        row[0]: row[1] for row in rows
    }
    assert kept["step"] == step
    assert kept["bound"] == certificate.bounds()["kl"]
    for _, bits, *printed in rows:
        bounds = certificate._replace(bits=int(bits.replace(",", ""))).bounds()
        for kind, text in zip(("occam", "kraft", "kl"), printed, strict=True):
            assert 0 <= float(text) - bounds[kind] < 1.01e-4  # rounded up
    at_most = re.search(r"is at most ([\d.]+) \(kl\)", described)
    exact = mdl.kl_bound(certificate.error, certificate.bits, len(split.labels), 0.05)
    assert 0 <= float(at_most[1]) - exact < 1.01e-4
    found = [re.findall(r"^test error: 0\.\d{4}$", out, re.M) for out in (described, predicted)]
    assert found[0] == found[1]
    assert len(found[0]) == 1
    labels = data.load("digits").test.labels
    error = np.mean(np.loadtxt(classes, dtype=int) != labels)
    assert found[0][0] == f"test error: {error:.4f}"
    for code in mdl.CODES:
        assert re.search(rf"^ *{code} +[\d,]+ ", described, re.M), code


@pytest.mark.slow
def test_shortening_leaves_a_frontier_that_describe_takes_the_best_of(run_dir, monkeypatch):
    monkeypatch.setattr("lconv_jax.compression.search._GIVE_UP", 0.01)
    before = describe(run_dir).certificate.bounds()["kl"]
    rows = shorten(run_dir, Options(steps=60))
    folder = os.path.join(run_dir, "short")
    try:
        bits = [row["bits"] for row in rows]
        errors = [row["train_error"] for row in rows]
        assert len(rows) > 2
        assert bits == sorted(set(bits))
        assert errors == sorted(set(errors), reverse=True)
        for row in rows:
            with open(os.path.join(folder, row["file"]), "rb") as stream:
                file = stream.read()
            found = certify.certify(file, data.load("digits").train, 0.05)
            assert (found.bits, found.error) == (row["bits"], row["train_error"])
        names = {row["file"] for row in rows} | {FRONTIER_FILE}
        assert names == set(os.listdir(folder))
        best = min(row["kl_bound"] for row in rows)
        assert describe(run_dir).certificate.bounds()["kl"] == min(before, best)
        # Again, it finds nothing better and loses nothing.
        assert shorten(run_dir, Options(steps=60)) == rows
    finally:
        for name in os.listdir(folder):
            os.remove(os.path.join(folder, name))


@pytest.mark.slow
def test_old_run_directories_are_read(run_dir, tmp_path):
    from lconv_jax.rundir.directory import CONFIG_FILE, read_config

    with open(os.path.join(run_dir, CONFIG_FILE), encoding="utf-8") as stream:
        record = json.load(stream)
    del record["config"]["log"]["describe_every_epochs"]
    (tmp_path / CONFIG_FILE).write_text(json.dumps(record))
    assert read_config(tmp_path).log.describe_every_epochs == 0


@pytest.mark.slow
def test_permuted_pixels_are_put_back(tmp_path):
    changes = {"data.permute": 1, "train.epochs": 4, "log.describe_every_epochs": 0}
    loop.train_and_evaluate(with_overrides(get_config(), SPARSE | changes), tmp_path)
    setup, network, _ = restore_network(str(tmp_path))
    test = setup.dataset.test
    inputs = INPUTS[network.input_code](test.images) / INPUT_SCALE[network.input_code]
    logits = folding.apply(network, jnp.asarray(inputs, jnp.float32))
    evaluated = read_metrics(tmp_path)[-1]["eval/accuracy"]
    accuracy = np.mean(np.argmax(logits, 1) == test.labels)
    assert accuracy == pytest.approx(evaluated, abs=1.5 / len(test.labels))


@pytest.mark.slow
def test_a_convolution_on_permuted_pixels_is_refused():
    changes = {"model.name": "s_conv", "data.permute": 1}
    with pytest.raises(config.ConfigError, match="describe_every_epochs"):
        config.validate(with_overrides(get_config(), SPARSE | changes))


@pytest.mark.parametrize("module", ["describe", "shorten"])
def test_what_is_no_run_is_refused_in_one_line(module, tmp_path):
    status, _, err = command(module, str(tmp_path))
    assert status == 1
    assert "is not the --workdir of a run" in err
    assert "Traceback" not in err


def test_of_many_weights_only_quick_codes_are_compared(monkeypatch):
    layer = mdl.Layer((mdl.Term("dense", 0, 1, np.eye(4, dtype=int)),), np.zeros(4, int))
    network = mdl.Network((4, 1), "black", (layer,))
    lengths = {code: 8 * len(mdl.encode(network, code)) for code in mdl.CODES}
    assert code_lengths(network) == lengths
    monkeypatch.setattr(certify, "_MANY", 3)
    quick = ("raw", "theorem2", "unit")
    assert code_lengths(network) == {code: lengths[code] for code in quick}


def test_a_missing_folder_is_no_run():
    status, _, err = command("describe", "runs/nowhere")
    assert status == 1
    assert "runs/nowhere" in err
    assert "is not the --workdir of a run" in err


@pytest.mark.slow
def test_predict_refuses_damage_and_other_data_in_one_line(run_dir, tmp_path):
    file = bytearray(describe(run_dir).file)
    whole, damaged = tmp_path / "whole.lconv", tmp_path / "damaged.lconv"
    whole.write_bytes(file)
    file[len(file) // 2] ^= 4
    damaged.write_bytes(file)
    for path, dataset, message in (
        (damaged, "digits", "the file is damaged"),
        (whole, "fashion_mnist_small", "this network takes"),
    ):
        status, _, err = command("predict", str(path), f"--data={dataset}")
        assert status == 1
        assert message in err
        assert "Traceback" not in err


@pytest.mark.slow
def test_a_run_that_left_units_out_is_described_at_its_original_shape(tmp_path):
    changes = {"train.shrink": "exact", "model.alpha": 8, "log.describe_every_epochs": 0}
    summary = loop.train_and_evaluate(with_overrides(get_config(), SPARSE | changes), tmp_path)
    setup, network, step = restore_network(str(tmp_path))
    assert step == setup.plan.total_steps
    units = setup.state_shapes.params["conv1"]["kernel"].shape[1]
    assert summary["metrics"]["units/conv1"] < units == len(network.layers[0].bias)
    told = []
    assert len(describe(str(tmp_path), told.append).file) < 2000
    assert not any("not finished" in line for line in told)
    os.remove(tmp_path / "summary.json")
    describe(str(tmp_path), told.append)
    assert f"the run is not finished: this is step {step} of {step}" in told
