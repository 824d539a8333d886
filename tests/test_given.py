"""Runs on a user's own images: a folder of them, the same in a file, and arrays of a program."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest

from lconv_jax import data
from lconv_jax.config import ConfigError, with_overrides
from lconv_jax.data import DataError
from lconv_jax.rundir import directory as rundir
from lconv_jax.train import train_and_evaluate
from lconv_jax.training.exporting import restore_network
from tests import tiny_config
from tests.helpers import final_digests, timeless

NAMES = tuple(f"digit {label}" for label in range(10))


def config(**changes):
    few = {"train.epochs": 2, "checkpoint.every_epochs": 1, "data.validation": 40}
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return with_overrides(tiny_config.get_config(), few | dotted)


def digits():
    """A data set that a program makes: 600 of scikit-learn's digits, class by class."""
    whole = data.load("digits", examples=600)
    order = np.argsort(whole.train.labels, kind="stable")
    return data.from_arrays(
        (whole.train.images[order], whole.train.labels[order]),
        tuple(whole.test),
        name="digits",
        class_names=NAMES,
    )


def outcome(directory):
    return timeless(directory), final_digests(directory)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A finished run on given data: its directory."""
    directory = tmp_path_factory.mktemp("given")
    train_and_evaluate(config(), directory, dataset=digits())
    return directory


@pytest.mark.slow
def test_the_run_directory_says_that_the_data_were_given(given):
    record = json.loads((given / "config.json").read_text())
    assert record["config"]["data"]["name"] == "given"
    expected = {
        "name": "digits",
        "num_classes": 10,
        "class_names": list(NAMES),
        "image_shape": [8, 8, 1],
        "num_examples": {"train": 560, "validation": 40, "test": 360},
    }
    summary = json.loads((given / "summary.json").read_text())
    assert summary["data"] == expected
    divided = data.given(digits(), validation=40, seed=config().seed)
    assert summary["data_sha256"] == record["data_sha256"] == data.digest(divided)


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["never", pytest.param("always", marks=pytest.mark.slow)])
def test_a_folder_of_the_same_images_gives_the_same_run(given, tmp_path, stream):
    dataset = digits()
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        for index, (image, label) in enumerate(zip(*split, strict=True)):
            folder = tmp_path / "pictures" / name / NAMES[label]
            folder.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(image[..., 0]).save(folder / f"{index:03d}.png")
    changes = {"data__name": "pictures", "data__data_dir": str(tmp_path), "data__stream": stream}
    summary = train_and_evaluate(config(**changes), tmp_path / "run")
    assert summary["data"]["class_names"] == list(NAMES)
    found, expected = outcome(tmp_path / "run"), outcome(given)
    # Test images are read class by class, so the sum of their losses is rounded otherwise.
    losses = [[line.pop("eval/loss", 0.0) for line in lines] for lines, _ in (found, expected)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert found == expected


@pytest.mark.slow
def test_a_file_of_the_same_arrays_gives_the_same_run(given, tmp_path):
    data.save(digits(), tmp_path / "digits.npz")
    changes = {"data__name": "digits.npz", "data__data_dir": str(tmp_path)}
    summary = train_and_evaluate(config(**changes), tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(given)
    assert summary["data"]["class_names"] == list(NAMES)


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_data_and_no_other(given, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(given, run)
    last, _ = final_digests(run)
    shutil.rmtree(run / "checkpoints" / str(last))
    (run / "summary.json").unlink()
    other = digits()
    other.train.images[17, 3, 3, 0] ^= 1
    with pytest.raises(ConfigError, match="the data: their contents are not the same"):
        train_and_evaluate(config(), run, dataset=other)
    with pytest.raises(ConfigError, match=r"config\.data\.name: 'given' there, 'digits' here"):
        train_and_evaluate(config(), run)
    summary = train_and_evaluate(config(), run, dataset=digits())
    assert 0 < summary["resumed_at_step"] < last
    assert outcome(run) == outcome(given)


@pytest.mark.slow
def test_commands_that_read_the_data_again_say_what_to_do(given):
    with pytest.raises(DataError, match=r"'given': the data of this run were given.*data\.save"):
        restore_network(str(given))


@pytest.mark.parametrize(
    ("changes", "dataset", "error", "message"),
    [
        ({"data__size": 8}, "digits", ConfigError, r"data\.size = 8.*these are given"),
        ({"data__validation": 600}, "digits", DataError, r"data\.validation = 600: digits has 600"),
        ({"train__epochs": 0}, "digits", ConfigError, r"train\.epochs = 0"),
        ({}, "array", DataError, r"dataset = ndarray: must be a lconv_jax\.data\.Dataset"),
    ],
)
def test_refusals_before_anything_is_written(tmp_path, changes, dataset, error, message):
    wanted = digits() if dataset == "digits" else np.zeros((5, 8, 8))
    with pytest.raises(error, match=message):
        train_and_evaluate(config(**changes), tmp_path / "run", dataset=wanted)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_from_before_these_keys_is_read_and_continued(given, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(given, run)
    record = json.loads((run / "config.json").read_text())
    del record["config"]["data"]["size"], record["config"]["data"]["channels"]
    (run / "config.json").write_text(json.dumps(record))
    found = rundir.read_config(run)
    assert (found.data.size, found.data.channels) == (0, 0)
    summary = train_and_evaluate(config(), run, dataset=digits())
    assert summary == json.loads((given / "summary.json").read_text())
