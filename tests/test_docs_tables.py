"""The recipes of docs/data.md for tables, on tables whose contents are known.

What the Hugging Face hub and `save_to_disk` write is made here by pyarrow, in their layout.
"""

import io
import json

import numpy as np
import PIL.Image
import pytest

from lconv_jax import data
from tests import test_docs

pyarrow = pytest.importorskip("pyarrow")
csv = pytest.importorskip("pyarrow.csv")
parquet = pytest.importorskip("pyarrow.parquet")

NAMES = ["daisy", "tulip", "rose"]


def png(image):
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def table(images, labels):
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    cells = [{"bytes": png(image), "path": None} for image in images]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    made = pyarrow.table({"image": pyarrow.array(cells, kind), "label": pyarrow.array(labels)})
    info = json.dumps({"info": {"features": features}})
    return made.replace_schema_metadata({"huggingface": info})


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What the page's Python leaves behind: its folder, its names, and the tables it read."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    splits = {}
    for name, count in (("train", 12), ("test", 6)):
        colour = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        grey = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count) % 3
        splits[name] = colour, grey, labels
        parquet.write_table(table(colour, labels), folder / f"{name}.parquet")
        pixels = {f"pixel{i}": grey.reshape(count, -1)[:, i] for i in range(28 * 28)}
        csv.write_csv(
            pyarrow.table({"label": np.array(NAMES)[labels], **pixels}), folder / f"{name}.csv"
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        scope = {"__name__": "docs"}
        for block in test_docs._blocks(test_docs.ROOT / "docs" / "data.md"):
            exec(compile(block, "data.md", "exec"), scope)
    return folder, scope, splits


@pytest.mark.slow
def test_parquet(ran):
    folder, _, splits = ran
    flowers = data.load("flowers.npz", folder)
    for name, (colour, _, labels) in splits.items():
        np.testing.assert_array_equal(getattr(flowers, name).images, colour)
        np.testing.assert_array_equal(getattr(flowers, name).labels, labels)
    assert flowers.class_names == tuple(NAMES)


@pytest.mark.slow
def test_what_save_to_disk_writes(ran):
    folder, scope, splits = ran
    colour, _, labels = splits["train"]
    saved = folder / "saved" / "train"
    saved.mkdir(parents=True)
    for part, rows in enumerate((slice(0, 5), slice(5, 12))):
        made = table(colour[rows], labels[rows])
        with pyarrow.ipc.new_stream(saved / f"data-{part:05d}-of-00002.arrow", made.schema) as file:
            file.write_table(made, max_chunksize=2)
    images, found = scope["from_saved"](saved, size=32, channels=3)
    np.testing.assert_array_equal(images, colour)
    np.testing.assert_array_equal(found, labels)


@pytest.mark.slow
def test_csv(ran):
    folder, _, splits = ran
    pixels = data.load("pixels.npz", folder)
    order = sorted(NAMES)  # words are numbered in alphabetical order
    assert pixels.class_names == tuple(order)
    for name, (_, grey, labels) in splits.items():
        np.testing.assert_array_equal(getattr(pixels, name).images[..., 0], grey)
        assert [order[label] for label in getattr(pixels, name).labels] == [
            NAMES[label] for label in labels
        ]


@pytest.mark.slow
def test_arrays(ran):
    folder, scope, _ = ran
    assert scope["summary"]["data"]["num_examples"] == {"train": 450, "validation": 50, "test": 100}
    assert (folder / "runs" / "halves" / "summary.json").exists()
