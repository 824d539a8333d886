"""Prepared TFDS sets: reading, and what is refused. TensorFlow is not needed, and not loaded."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

tfds = pytest.importorskip("tensorflow_datasets")

from lconv_jax import data  # noqa: E402
from tests.data import tfds_made  # noqa: E402

IMAGE = tfds.features.Image(shape=(None, None, 3))
LABEL = tfds.features.ClassLabel(num_classes=2)


def make_examples(count, shape=(4, 5, 3), seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return pixels, [
        {"image": tfds_made.png(image), "label": i % 2} for i, image in enumerate(pixels)
    ]


def as_set(images, labels):
    return sorted(
        (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    )


def test_what_was_written_is_read(tmp_path):
    train, train_examples = make_examples(2500)  # more than are read at a time
    test, test_examples = make_examples(20, seed=1)
    tfds_made.make(
        tmp_path, {"image": IMAGE, "label": LABEL}, {"train": train_examples, "test": test_examples}
    )
    loaded = data.load("made_set", tmp_path, validation=100)
    assert (loaded.name, loaded.num_classes, loaded.image_shape) == ("made_set", 2, (4, 5, 3))
    assert loaded.train.images.dtype == np.uint8
    assert loaded.train.labels.dtype == np.int32
    assert as_set(*loaded.test) == as_set(test, np.arange(20) % 2)
    both = [np.concatenate(parts) for parts in zip(loaded.train, loaded.validation, strict=True)]
    assert as_set(*both) == as_set(train, np.arange(2500) % 2)


def test_grey_images_and_a_validation_split_as_test(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)
    examples = [{"image": tfds_made.png(image), "label": i % 2} for i, image in enumerate(pixels)]
    features = {"image": tfds.features.Image(shape=(4, 4, 1)), "label": LABEL}
    tfds_made.make(tmp_path, features, {"train": examples[:4], "validation": examples[4:]})
    loaded = data.load("made_set:1.0.0", tmp_path)
    assert loaded.image_shape == (4, 4, 1)
    assert as_set(*loaded.test) == as_set(pixels[4:], [0, 1])


def test_mixed_sizes_name_the_image(tmp_path):
    _, examples = make_examples(6)
    examples[3]["image"] = tfds_made.png(np.zeros((4, 6, 3), np.uint8))
    where = tfds_made.make(
        tmp_path, {"image": IMAGE, "label": LABEL}, {"train": examples, "test": examples[:2]}
    )
    with pytest.raises(
        data.DataError, match=r"\(train\): image \d has shape .*resize them"
    ) as error:
        data.load("made_set", tmp_path)
    assert where in str(error.value)


def test_other_features_are_named(tmp_path):
    features = {"image": IMAGE, "attributes": tfds.features.Text()}
    example = {"image": tfds_made.png(np.zeros((4, 4, 3), np.uint8)), "attributes": "x"}
    tfds_made.make(tmp_path, features, {"train": [example], "test": [example]})
    with pytest.raises(data.DataError, match=r"features attributes: Text, image: Image.*npz"):
        data.load("made_set", tmp_path)


def test_missing_splits_are_named(tmp_path):
    _, examples = make_examples(4)
    tfds_made.make(tmp_path, {"image": IMAGE, "label": LABEL}, {"train": examples})
    with pytest.raises(data.DataError, match="has the splits train;"):
        data.load("made_set", tmp_path)


def test_tfrecord_is_refused_with_a_remedy(tmp_path):
    _, examples = make_examples(4)
    where = pathlib.Path(
        tfds_made.make(
            tmp_path, {"image": IMAGE, "label": LABEL}, {"train": examples, "test": examples}
        )
    )
    for path in where.glob("*array_record*"):
        path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
    info = where / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(data.DataError, match=r"prepared as tfrecord.*Delete") as error:
        data.load("made_set", tmp_path)
    assert f"lconv_jax.data.prepare made_set --data_dir {tmp_path}" in str(error.value)


@pytest.mark.parametrize("damage", ["truncated", "deleted"])
def test_damaged_files(tmp_path, damage):
    _, examples = make_examples(50)
    where = pathlib.Path(
        tfds_made.make(
            tmp_path, {"image": IMAGE, "label": LABEL}, {"train": examples, "test": examples}
        )
    )
    (path,) = where.glob("*train.array_record*")
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(data.DataError, match="prepare the set again") as error:
        data.load("made_set", tmp_path)
    assert str(where) in str(error.value)


def test_an_unprepared_set_gets_the_command(tmp_path):
    with pytest.raises(data.DataError) as error:
        data.load("cifar10", tmp_path)
    assert f"cifar10: not prepared in {tmp_path}" in str(error.value)
    assert f"python -m lconv_jax.data.prepare cifar10 --data_dir {tmp_path}" in str(error.value)
    assert 'pip install "lconv_jax[tfds]"' in str(error.value)


def test_an_unknown_name_gets_suggestions(tmp_path):
    with pytest.raises(data.DataError, match=r"similar: .*cifar10"):
        data.load("cifarr10", tmp_path)
    with pytest.raises(data.DataError, match=r"similar: .*fashion_mnist_small"):
        data.load("fashion_mnist_smal", tmp_path)
    with pytest.raises(data.DataError, match=r"similar: .*nlgp"):
        data.load("nlpg", tmp_path)
    with pytest.raises(data.DataError, match=r"data\.name = 'a b': .*Accepted"):
        data.load("a b", tmp_path)


# As if TensorFlow were not installed: `find_spec` finds none, and an import fails.
WITHOUT_TENSORFLOW = """
import importlib.machinery, sys
real = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in HIDDEN else real(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
"""


def run_python(code, hidden=("tensorflow",)):
    code = WITHOUT_TENSORFLOW.replace("HIDDEN", repr(hidden)) + code
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_reading_works_where_tensorflow_is_not_installed(tmp_path):
    pixels, examples = make_examples(4)
    tfds_made.make(
        tmp_path, {"image": IMAGE, "label": LABEL}, {"train": examples, "test": examples}
    )
    done = run_python(f"""
from lconv_jax import data
loaded = data.load("made_set", {str(tmp_path)!r})
assert not any(name.split(".")[0] == "tensorflow" for name in sys.modules)
print(loaded.train.images.astype(int).sum())
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(pixels.astype(int).sum())]


def test_reading_does_not_load_an_installed_tensorflow(tmp_path):
    _, examples = make_examples(4)
    tfds_made.make(
        tmp_path, {"image": IMAGE, "label": LABEL}, {"train": examples, "test": examples}
    )
    done = run_python(
        f"""
from lconv_jax import data
data.load("made_set", {str(tmp_path)!r})
assert "tensorflow_datasets" in sys.modules
assert "tensorflow" not in sys.modules
""",
        hidden=(),
    )
    assert done.returncode == 0, done.stderr


def test_importing_and_the_embedded_set_need_no_data_library():
    done = run_python(
        """
from lconv_jax import data
data.load("fashion_mnist_small")
""",
        hidden=("tensorflow", "tensorflow_datasets", "sklearn", "array_record", "PIL"),
    )
    assert done.returncode == 0, done.stderr


def test_preparing_without_tensorflow_says_what_to_install(tmp_path):
    done = run_python(f"""
sys.argv = ["prepare", "cifar10", "--data_dir", {str(tmp_path)!r}]
from lconv_jax.data import prepare
prepare.main()
""")
    assert done.returncode == 1
    assert 'error: Preparing a data set needs TensorFlow: pip install "lconv_jax[tfds]"' in (
        done.stderr
    )
