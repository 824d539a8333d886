"""Sets that TFDS's own builders have prepared from files of the true formats."""

import importlib.util
import pathlib
import runpy
import subprocess
import sys

import numpy as np
import pytest
import tfds_archives

from lconv_jax import config as config_lib
from lconv_jax import data
from lconv_jax.training import loop, setup

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None,
        reason="preparing a TFDS set needs TensorFlow",
    ),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where TFDS has prepared each set, in a process of its own."""
    folder = tmp_path_factory.mktemp("sets")
    names = [*tfds_archives.CLASSES, tfds_archives.IMAGENET64]
    command = [sys.executable, tfds_archives.__file__, str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name: folder / name / "prepared" for name in names}


@pytest.fixture(params=list(tfds_archives.CLASSES))
def prepared(request, folders):
    """(name, folder) of a set."""
    return request.param, folders[request.param]


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
    config.data.augment = ""
    config.data.crop = 0
    config.data.flip = False
    config.optimizer.reference_lr_sum = 0.0
    config.optimizer.l1.conv = 1e-3
    config.train.epochs = 60
    config.log.eval_every_epochs = 60
    config.checkpoint.every_epochs = 60
    config.train.batch_size = 100
    summary = loop.train_and_evaluate(config, tmp_path)
    assert summary["metrics"]["eval/accuracy"] > 6 / tfds_archives.CLASSES[name]
    assert summary["metrics"]["sparsity/conv1/nonzeros"] < summary["weights"]["conv1"]


@pytest.mark.parametrize("name", ["sfc", "resnet18"])
def test_imagenet_s_configurations_find_it_and_stream_it(name, folders):
    config_file = pathlib.Path(__file__).parents[2] / "configs" / f"{name}_imagenet64.py"
    config = runpy.run_path(str(config_file))["get_config"]()
    config.data.data_dir = str(folders[tfds_archives.IMAGENET64])
    config.train.batch_size = 16
    config.data.device_limit_gib = 1e-3
    experiment = setup.prepare(config)
    dataset = experiment.dataset
    assert data.is_streamed(dataset.train)
    assert (dataset.num_classes, dataset.image_shape) == (1000, (64, 64, 3))
    assert experiment.plan.total_steps == 3 * 40
    parts = [tfds_archives.make_imagenet64(part) for part in ("train_part1", "train_part2")]
    for split, made in (("train", parts), ("test", [tfds_archives.make_imagenet64("val")])):
        images, labels = map(np.concatenate, zip(*made, strict=True))
        written = sorted(zip(map(bytes, images), labels.tolist(), strict=True))
        read_images, read_labels = data.read_all(getattr(dataset, split))
        assert sorted(zip(map(bytes, read_images), read_labels.tolist(), strict=True)) == written
