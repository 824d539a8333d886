"""What a run says of its data and of its answers is what they are."""

import numpy as np
import pytest

from lconv_jax import analysis, train
from lconv_jax.errors import StoredError
from lconv_jax.experiments import sweeps
from lconv_jax.rundir import facts
from lconv_jax.training import inputs, setup
from tests import tiny_config


@pytest.fixture(scope="module")
def permuted(tmp_path_factory):
    """A short run on permuted pixels, with examples held out."""
    directory = tmp_path_factory.mktemp("run")
    config = tiny_config.get_config()
    config.train.epochs = 2
    config.data.permute = 3
    config.data.validation = 100
    return directory, config, train.train_and_evaluate(config, directory)


@pytest.mark.slow
def test_the_counts_of_the_last_evaluation_are_its_accuracies(permuted):
    directory, config, summary = permuted
    dataset = setup.load(config)
    found = facts.read_confusion(directory)
    assert found["step"] == summary["metrics"]["step"]
    for split, name in (("test", "eval"), ("validation", "validation")):
        label, answer, examples = np.array(found["splits"][split]).T
        labels = getattr(dataset, split).labels
        per_class = np.bincount(label, examples, dataset.num_classes)
        np.testing.assert_array_equal(per_class, np.bincount(labels))
        right = examples[label == answer].sum()
        assert right / len(labels) == summary["metrics"][f"{name}/accuracy"]


@pytest.mark.slow
def test_the_facts_of_the_data_are_those_of_the_data(permuted):
    directory, config, _ = permuted
    dataset = setup.load(config)
    found = facts.read_data(directory)
    assert tuple(found["image_shape"]) == dataset.image_shape == (8, 8, 1)
    assert found["num_classes"] == dataset.num_classes
    assert found["num_examples"]["validation"] == 100
    assert found["num_examples"]["train"] == len(dataset.train.labels)
    # Weights that were laid out in the run's order go back to the pixels that they read.
    order = np.array(found["pixel_order"])
    np.testing.assert_array_equal(order, inputs.permutation(3, (8, 8, 1)))
    kernel = np.arange(64.0)[:, None]
    np.testing.assert_array_equal(analysis.unpermuted_rows(kernel[order], order, (8, 8, 1)), kernel)


@pytest.mark.slow
def test_runs_that_train_together_say_the_same_as_a_lone_one(permuted, tmp_path):
    directory, config, _ = permuted
    sweeps.run(config, tmp_path, {})
    (other,) = (path.parent for path in tmp_path.glob("**/confusion.json"))
    assert facts.read_confusion(other) == facts.read_confusion(directory)
    assert facts.read_data(other) == facts.read_data(directory)


@pytest.mark.slow
def test_a_test_set_that_is_not_read_is_not_in_the_counts(tmp_path):
    config = tiny_config.get_config()
    config.train.epochs = 1
    config.log.test = "never"
    train.train_and_evaluate(config, tmp_path)
    assert facts.read_confusion(tmp_path) is None


def test_damage_is_named(tmp_path):
    assert facts.read_data(tmp_path) is None
    (tmp_path / "data.json").write_text('{"name": "digits"}')
    with pytest.raises(StoredError, match=r"data\.json: it has no 'num_classes'; delete it"):
        facts.read_data(tmp_path)
    (tmp_path / "confusion.json").write_text('{"step": 3, "splits": {"test": [[0, "one", 2]]}}')
    with pytest.raises(StoredError, match=r"confusion\.json.*must be an integer"):
        facts.read_confusion(tmp_path)
