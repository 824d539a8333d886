"""CIFAR-10, CIFAR-100 and SVHN, prepared by TFDS's own builders from files of the true formats."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import tfds_archives

from lconv_jax import config as config_lib
from lconv_jax import data, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None,
        reason="preparing a TFDS set needs TensorFlow",
    ),
]


@pytest.fixture(scope="module", params=list(tfds_archives.CLASSES))
def prepared(request, tmp_path_factory):
    """(name, folder) of a set that TFDS has prepared, in a process of its own."""
    folder = tmp_path_factory.mktemp(request.param)
    command = [sys.executable, tfds_archives.__file__, request.param, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return request.param, folder / "prepared"


def test_images_and_labels_are_those_of_the_archive(prepared):
    name, folder = prepared
    loaded = data.load(name, folder)
    assert (loaded.num_classes, loaded.image_shape) == (tfds_archives.CLASSES[name], (32, 32, 3))
    for split in ("train", "test"):
        images, labels = tfds_archives.make_split(name, split)
        # TFDS writes the examples in an order of its own.
        written = sorted(zip(map(bytes, images), labels.tolist(), strict=True))
        read_images, read_labels = getattr(loaded, split)
        read = sorted(zip(map(bytes, read_images), read_labels.tolist(), strict=True))
        assert read == written


def test_a_linear_probe_learns_them(prepared):
    name, folder = prepared
    loaded = data.load(name, folder)
    features, targets = (
        loaded.train.images.reshape(len(loaded.train.labels), -1) / 255.0 - 0.5,
        np.eye(loaded.num_classes)[loaded.train.labels],
    )
    gram = features @ features.T + 10.0 * np.eye(len(features))
    weights = features.T @ np.linalg.solve(gram, targets)
    test = loaded.test.images.reshape(len(loaded.test.labels), -1) / 255.0 - 0.5
    accuracy = np.mean((test @ weights).argmax(1) == loaded.test.labels)
    assert accuracy > 0.95


def test_a_validation_split_of_them(prepared):
    name, folder = prepared
    classes = tfds_archives.CLASSES[name]
    loaded = data.load(name, folder, validation=2 * classes, examples=4 * classes)
    assert np.bincount(loaded.train.labels).tolist() == [2] * classes
    assert np.bincount(loaded.validation.labels).tolist() == [2] * classes


def test_the_paper_s_network_trains_on_them(prepared, tmp_path):
    name, folder = prepared
    config = config_lib.paper_config(name, "s_fc", alpha=1)
    config.data.data_dir = str(folder)
    config.data.crop = 0
    config.data.flip = False
    config.optimizer.reference_lr_sum = 0.0
    config.optimizer.l1.conv = 1e-3
    config.train.epochs = 60
    config.log.eval_every_epochs = 60
    config.checkpoint.every_epochs = 60
    config.train.batch_size = 100
    summary = train.train_and_evaluate(config, tmp_path)
    assert summary["metrics"]["eval/accuracy"] > 6 / tfds_archives.CLASSES[name]
    assert summary["metrics"]["sparsity/conv1/nonzeros"] < summary["weights"]["conv1"]
