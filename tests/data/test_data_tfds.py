"""Prepared TFDS sets: reading, and what is refused. TensorFlow is not needed, and not loaded."""

import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

tfds = pytest.importorskip("tensorflow_datasets")

from lconv_jax import data  # noqa: E402
from lconv_jax.data import prepare  # noqa: E402
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


@pytest.mark.slow
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


def make_set(tmp_path, count=6):
    """A prepared set's folder."""
    _, examples = make_examples(count)
    splits = {"train": examples, "test": examples[:4]}
    return pathlib.Path(tfds_made.make(tmp_path, {"image": IMAGE, "label": LABEL}, splits))


def replace_in(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


OWN_LABEL = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("features.json", OWN_LABEL, "evil_set.Label"),
        ("features.json", OWN_LABEL, "evil_set.tensorflow_datasets.Label"),
        ("features.json", OWN_LABEL, "tensorflow_datasets_evil.Label"),
        ("features.json", OWN_LABEL, "tensorflow_datasets..evil_set.Label"),
        ("features.json", '"pythonClassName": "' + OWN_LABEL, '"type": "evil_set.Label'),
        (
            "features.json",
            '"pythonClassName": "' + OWN_LABEL,
            '"python_class_name": "evil_set.Label',
        ),
        (
            "features.json",
            '"pythonClassName": "' + OWN_LABEL,
            '"pythonClassName": "evil_set.Label", "pythonClassName": "' + OWN_LABEL,
        ),
        (
            "features.json",
            '"classLabel": {',
            '"jsonFeature": {"json": "{\\"x\\": {\\"type\\": \\"evil_set.Label\\"}}"}, "more": {',
        ),
        ("dataset_info.json", "{", '{"features": {"pythonClassName": "evil_set.Label"}, '),
    ],
)
def test_a_set_cannot_have_code_of_its_own_run(tmp_path, monkeypatch, file, old, new):
    where = make_set(tmp_path)
    for name in ("evil_set", "tensorflow_datasets_evil"):
        (tmp_path / f"{name}.py").write_text("import os\nos.environ['EVIL_SET_RAN'] = '1'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("EVIL_SET_RAN", raising=False)
    path = where / file
    path.write_text(path.read_text().replace(old, new, 1))
    for name, folder in (("made_set", tmp_path), (str(where), None)):
        with pytest.raises(data.DataError, match=rf"{file}: names the class '[^']*evil.*npz"):
            data.load(name, folder)
        with pytest.raises(data.DataError, match="names the class"):
            prepare.prepare(name, folder)
    assert "EVIL_SET_RAN" not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", None])
def test_metadata_that_is_not_whole_is_named(tmp_path, file, content):
    path = make_set(tmp_path) / file
    path.write_bytes(path.read_bytes()[:100] if content is None else content)
    says = str(path.parent) if content in (b"{}", b"[]") else str(path)
    with pytest.raises(data.DataError, match=rf"{says}.*prepare the set again"):
        data.load("made_set", tmp_path)


def test_a_bad_image_is_named_by_its_number(tmp_path):
    _, examples = make_examples(6)
    examples[3]["image"] = b"no image at all"
    features = {"image": IMAGE, "label": LABEL}
    tfds_made.make(tmp_path, features, {"train": examples, "test": examples[:2]})
    with pytest.raises(data.DataError, match=r"\(train\), image \d: .*begins with b'no image"):
        data.load("made_set", tmp_path)


def test_images_that_pillow_would_hand_to_a_program_are_refused(tmp_path):
    _, examples = make_examples(4)
    file = io.BytesIO()
    PIL.Image.new("RGB", (5, 4)).save(file, "eps")
    examples[0]["image"] = file.getvalue()
    features = {"image": IMAGE, "label": LABEL}
    tfds_made.make(tmp_path, features, {"train": examples, "test": examples[1:]})
    with pytest.raises(data.DataError, match=r"image \d: .*no PNG .*begins with b'%!PS"):
        data.load("made_set", tmp_path)


def test_numbers_of_records_are_those_of_the_files(tmp_path):
    where = make_set(tmp_path)
    replace_in(where / "dataset_info.json", '"6"', '"6000000000000"')
    with pytest.raises(data.DataError, match=r"train.*holds 6 records.*says 6000000000000"):
        data.load("made_set", tmp_path, stream="always")


@pytest.mark.parametrize("name", ["label.labels.txt", "made_set-train.array_record-00000-of-00001"])
def test_a_fifo_among_the_files_is_not_waited_for(tmp_path, name):
    path = make_set(tmp_path) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(data.DataError, match=f"{name}: is no regular file"):
        data.load("made_set", tmp_path)


def test_a_validation_split_of_its_own(tmp_path):
    pixels, examples = make_examples(12)
    splits = {"train": examples[:6], "validation": examples[6:10], "test": examples[10:]}
    tfds_made.make(tmp_path, {"image": IMAGE, "label": LABEL}, splits)
    loaded = data.load("made_set", tmp_path)
    assert as_set(*loaded.validation) == as_set(pixels[6:10], [0, 1, 0, 1])
    assert len(data.load("made_set", tmp_path, validation=2).validation.labels) == 2


def test_a_preparation_that_was_broken_off_is_none(tmp_path, monkeypatch):
    """What it leaves is in the way of neither command."""
    folder = tmp_path / "made_set" / "1.0.0"
    folder.mkdir(parents=True)
    with pytest.raises(data.DataError):
        data.load("made_set", tmp_path)
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: name)
    examples = make_examples(4)[1]
    features, splits = {"image": IMAGE, "label": LABEL}, {"train": examples, "test": examples}
    monkeypatch.setattr(
        tfds, "builder", lambda name, **kwargs: tfds_made.MadeSet(features, splits, **kwargs)
    )
    assert prepare.prepare("made_set", tmp_path) == str(folder)
    assert len(data.load("made_set", tmp_path).train.labels) == 4
    assert prepare.prepare("made_set", tmp_path) == str(folder)
    (path,) = folder.glob("*train.array_record*")
    path.unlink()
    with pytest.raises(
        data.DataError, match=r"train.array_record.*not there.*prepare the set again"
    ):
        prepare.prepare("made_set", tmp_path)
    (folder / "dataset_info.json").unlink()
    (folder / "features.json").unlink()
    with pytest.raises(data.DataError, match=r"1\.0\.0: is there.*broken off.*Delete this folder"):
        prepare.prepare("made_set", tmp_path)


def test_preparing_without_a_network_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: name)

    class Unreachable:
        data_path = tmp_path / "none"

        def download_and_prepare(self):
            raise ConnectionError("no such host")

    monkeypatch.setattr(tfds, "builder", lambda name, **kwargs: Unreachable())
    monkeypatch.setattr(sys, "argv", ["prepare", "cifar10", "--data_dir", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^error: cifar10: could not .*no such host.*network"):
        prepare.main()


def test_a_default_folder_that_is_at_fault_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(data.DataError, match=r"TFDS_DATA_DIR \(.*nowhere, which is no folder\)"):
        data.load("cifar10")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(data.DataError, match=r"not prepared in TFDS_DATA_DIR \(\S+\)"):
        data.load("cifar10")


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_importing_and_the_embedded_set_need_no_data_library():
    done = run_python(
        """
from lconv_jax import data
data.load("fashion_mnist_small")
""",
        hidden=("tensorflow", "tensorflow_datasets", "sklearn", "array_record", "PIL"),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
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
