"""Folders of images: what is read, resized, refused, kept and streamed."""

import io
import os
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest

from lconv_jax import data
from lconv_jax.data.sources import decoded, folder, images
from lconv_jax.host import memory

CLASSES = ("ant", "bee", "cat")


def picture(seed, shape=(6, 5, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path)
    return path


def make(root, splits=("train", "test"), classes=CLASSES, each=4, shape=(6, 5, 3)):
    """A folder of images, and the arrays that are expected of each split."""
    expected, seed = {}, 0
    for split in splits:
        found, labels = [], []
        for label, name in enumerate(classes):
            for number in range(each):
                found.append(picture(seed, shape))
                labels.append(label)
                write(root / split / name / f"{number}.png", found[-1])
                seed += 1
        stacked = np.stack(found)
        expected[split] = (stacked if stacked.ndim == 4 else stacked[..., None]), labels
    return expected


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """The folder that decoded images are kept in, empty."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv(decoded.VARIABLE, str(path))
    return path


def same(split, expected):
    np.testing.assert_array_equal(split.images, expected[0])
    np.testing.assert_array_equal(split.labels, expected[1])


@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5)])
@pytest.mark.parametrize("stream", ["never", "always"])
def test_what_was_written_is_read_with_the_names_of_its_classes(tmp_path, shape, stream):
    expected = make(tmp_path / "pets", ("train", "test", "val"), shape=shape)
    loaded = data.load("pets", tmp_path, stream=stream)
    assert (loaded.name, loaded.num_classes, loaded.class_names) == ("pets", 3, CLASSES)
    assert loaded.image_shape == (6, 5, 3 if len(shape) == 3 else 1)
    assert (loaded.train.images.dtype, loaded.train.labels.dtype) == (np.uint8, np.int32)
    for name, split in (("train", "train"), ("test", "test"), ("val", "validation")):
        found = getattr(loaded, split)
        assert data.is_streamed(found) == (stream == "always")
        same(data.read(found, slice(None)), expected[name])
    alone = data.load(str(tmp_path / "pets"), stream=stream)
    assert data.digest(alone) == data.digest(loaded)


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    make(tmp_path / "set", classes=("10", "9", "2"), each=1)
    assert data.load("set", tmp_path).class_names == ("2", "9", "10")


def test_hidden_files_are_skipped(tmp_path):
    expected = make(tmp_path / "set")
    for place in ("", "train", "train/ant", "test/bee"):
        for name in (".DS_Store", "._0.png", "Thumbs.db"):
            (tmp_path / "set" / place / name).write_bytes(b"no image")
    (tmp_path / "set" / "train" / ".cache").mkdir()
    same(data.load("set", tmp_path).train, expected["train"])


def test_a_part_and_a_validation_split_are_taken_as_of_other_sets(tmp_path):
    expected = make(tmp_path / "set", ("train", "test", "valid"))
    loaded = data.load("set", tmp_path, examples=9, validation=3)
    first = [row for row in range(12) if row % 4 < 3]
    both = np.concatenate([loaded.train.images, loaded.validation.images])
    assert sorted(i.tobytes() for i in both) == sorted(
        i.tobytes() for i in expected["train"][0][first]
    )
    same(data.load("set", tmp_path).validation, expected["valid"])


def test_images_of_mixed_sizes(tmp_path):
    make(tmp_path / "set")
    odd = picture(99, (30, 20, 3))
    path = write(tmp_path / "set" / "test" / "bee" / "odd.png", odd)
    with pytest.raises(
        data.DataError,
        match=r"set: the images differ in size \(height × width\): 6 × 5 \(24, such as "
        r"train/ant/0\.png\), 30 × 20 \(1, such as test/bee/odd\.png\)\. Set data\.size",
    ):
        data.load("set", tmp_path)
    streamed = data.load("set", tmp_path, stream="always").test
    with pytest.raises(data.DataError, match=r"odd\.png: is an image of 30 × 20 .*6 × 5.*data\.s"):
        data.read(streamed, slice(None))
    loaded = data.load("set", tmp_path, size=8)
    assert loaded.image_shape == (8, 8, 3)
    np.testing.assert_array_equal(
        loaded.test.images[8], images.decode(path.read_bytes(), size=8)
    )  # after four of ant and four of bee


def test_one_colour_image_makes_a_set_of_colour_images(tmp_path):
    expected = make(tmp_path / "set", shape=(6, 5))
    assert data.load("set", tmp_path).image_shape == (6, 5, 1)
    write(tmp_path / "set" / "test" / "cat" / "z.png", picture(0))
    loaded = data.load("set", tmp_path)
    np.testing.assert_array_equal(loaded.train.images, np.repeat(expected["train"][0], 3, -1))
    np.testing.assert_array_equal(loaded.test.images[-1], picture(0))
    grey = data.load("set", tmp_path, channels=1)
    np.testing.assert_array_equal(grey.train.images, expected["train"][0])


def test_decoded_images_are_kept_by_content(tmp_path, cache, monkeypatch):
    expected = make(tmp_path / "set")
    data.load("set", tmp_path)
    assert len(list(cache.iterdir())) == 2  # one a split
    decodings = []
    decode = images.decode
    monkeypatch.setattr(
        images, "decode", lambda *a, **k: [decodings.append(k["where"]), decode(*a, **k)][1]
    )
    same(data.load("set", tmp_path).train, expected["train"])
    shutil.copytree(tmp_path / "set", tmp_path / "moved" / "set")
    same(data.load("set", tmp_path / "moved").train, expected["train"])
    assert not decodings
    # Another picture of the same size and time is another content.
    path = tmp_path / "set" / "train" / "ant" / "0.png"
    before = path.stat()
    write(path, picture(1000))
    path.write_bytes(path.read_bytes().ljust(before.st_size, b"\0")[: before.st_size])
    PIL.Image.fromarray(picture(1000)).save(path, compress_level=0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    np.testing.assert_array_equal(data.load("set", tmp_path).train.images[0], picture(1000))
    assert len(decodings) == 24
    for options in ({"size": 4}, {"channels": 1}):
        data.load("set", tmp_path, **options)
        assert len(decodings) == 24 * (2 + (options == {"channels": 1}))


def test_files_that_change_their_classes_are_another_set(tmp_path):
    make(tmp_path / "set", classes=("ant", "bee"), each=2)
    before = data.load("set", tmp_path).train
    os.rename(tmp_path / "set/train/ant/1.png", tmp_path / "set/train/bee/+.png")
    after = data.load("set", tmp_path).train
    assert (before.labels.tolist(), after.labels.tolist()) == ([0, 0, 1, 1], [0, 1, 1, 1])
    np.testing.assert_array_equal(after.images, before.images)


def test_what_is_kept_and_damaged_is_made_again(tmp_path, cache):
    expected = make(tmp_path / "set")
    data.load("set", tmp_path)
    (path,) = cache.glob("*-train.npz")
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[content.index(picture(3).tobytes())] ^= 1
    for damaged in (b"", content[:-400], content[:100], bytes(flipped)):
        path.write_bytes(damaged)
        same(data.load("set", tmp_path).train, expected["train"])
        assert np.load(path)["images"].tobytes() == expected["train"][0].tobytes()
        data.load("set", tmp_path, channels=1)


def test_the_cache_may_be_off_or_impossible(tmp_path, cache, monkeypatch, caplog):
    expected = make(tmp_path / "set")
    monkeypatch.setenv(decoded.VARIABLE, "")
    same(data.load("set", tmp_path).train, expected["train"])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(decoded.VARIABLE, str(tmp_path / "file" / "cache"))
    same(data.load("set", tmp_path).train, expected["train"])
    assert not list(cache.iterdir())
    monkeypatch.setenv(decoded.VARIABLE, str(cache))
    monkeypatch.setattr(memory, "host_bytes", lambda: 4000)  # more than twice the files
    same(data.load("set", tmp_path).train, expected["train"])
    assert not list(cache.iterdir())


def test_where_it_is_by_default(monkeypatch):
    monkeypatch.delenv(decoded.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/caches")
    assert decoded.directory() == "/some/caches/lconv_jax/images"


def test_streamed_sets_are_opened_without_decoding(tmp_path, monkeypatch):
    make(tmp_path / "set")
    monkeypatch.setattr(images, "decode", None)
    streamed = data.load("set", tmp_path, stream="always", size=4, validation=3)
    assert streamed.train.images.shape == (9, 4, 4, 3)
    assert sorted(np.asarray(streamed.train.labels)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_the_digest_of_a_streamed_set_sees_names_bytes_and_samples(tmp_path):
    def digest():
        return data.digest(data.load("set", tmp_path, stream="always"))

    make(tmp_path / "set")
    first = digest()
    assert first.startswith("streamed-")
    assert digest() == first
    path = tmp_path / "set" / "train" / "bee" / "2.png"
    os.rename(path, path.with_name("2b.png"))
    assert (renamed := digest()) != first
    write(path.with_name("2b.png"), picture(77))
    assert digest() != renamed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: shutil.rmtree(root / "test"), r"set/test: cannot be read \(No such file"),
        (lambda root: shutil.rmtree(root / "train"), r"set/train: cannot be read \(No such file"),
        (lambda root: (root / "train" / "dog").mkdir(), r"train/dog: holds no image"),
        (
            lambda root: os.rename(root / "test" / "cat", root / "test" / "dog"),
            r"test/dog: there is no such class among the training examples \(ant, bee, cat\)",
        ),
        (lambda root: (root / "train" / "notes.txt").write_text(""), r"notes\.txt: is no folder"),
        (lambda root: (root / "test/ant/more").mkdir(), r"ant/more: is a folder within a class"),
        (
            lambda root: [(root / name / "ant").mkdir(parents=True) for name in ("val", "valid")],
            r"set: has the folders val, valid; keep one",
        ),
        (
            lambda root: [shutil.rmtree(root / "test" / name) for name in CLASSES],
            r"set/test: has no folder",
        ),
        (lambda root: [p.unlink() for p in root.glob("test/*/*")], r"set/test: holds no example"),
        (
            lambda root: [shutil.rmtree(p) for name in CLASSES[1:] for p in root.glob(f"*/{name}")],
            r"set/train: every label is 0; two classes are needed",
        ),
        (lambda root: os.mkfifo(root / "train/ant/0.fifo"), r"0\.fifo: cannot be read.*regular"),
        (
            lambda root: (root / "train/ant/zz.png").symlink_to("nowhere"),
            r"zz\.png: cannot be read \(No such file",
        ),
        (lambda root: (root / "test/cat/3.png").write_bytes(b""), r"cat/3\.png: no image that can"),
        (
            lambda root: (root / "test/cat/3.png").write_bytes(
                (root / "test/cat/2.png").read_bytes()[:90]
            ),
            r"cat/3\.png: no image that can be read .*Replace or remove it",
        ),
    ],
)
def test_refusals(tmp_path, change, message):
    make(tmp_path / "set")
    change(tmp_path / "set")
    with pytest.raises(data.DataError, match=message):
        data.load("set", tmp_path)


def test_of_several_damaged_files_the_first_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_CHUNK", 2)
    make(tmp_path / "set", each=20)
    for name in ("cat/0.png", "bee/7.png", "bee/12.png"):
        (tmp_path / "set/train" / name).write_bytes(b"damaged")
    for _ in range(5):
        with pytest.raises(data.DataError, match=r"train/bee/12\.png"):
            data.load("set", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": -1}, "data.size = -1: must be 0 … "),
        ({"size": 10**9}, "data.size = 1000000000: must be 0 … "),
        ({"size": 4.0}, "data.size = 4.0: must be 0 … "),
        ({"channels": 2}, "data.channels = 2: must be 0, 1 or 3"),
        ({"channels": True}, "data.channels = True: must be 0, 1 or 3"),
    ],
)
def test_sizes_and_channels_that_there_are_not(tmp_path, options, message):
    make(tmp_path / "set")
    with pytest.raises(data.DataError, match=message):
        data.load("set", tmp_path, **options)


def test_images_of_other_sets_are_resized_and_coloured_as_those_of_folders(tmp_path):
    plain, small = data.load("digits"), data.load("digits", size=4, channels=3)
    np.testing.assert_array_equal(plain.test.labels, small.test.labels)
    for number in (0, 7):
        buffer = io.BytesIO()
        PIL.Image.fromarray(plain.test.images[number, ..., 0]).save(buffer, "PNG")
        expected = data.decode_image(buffer.getvalue(), size=4, channels=3)
        np.testing.assert_array_equal(small.test.images[number], expected)
    # Colour is what made it grey, and a set of an .npz file, whatever its name, is converted too.
    data.save(small, tmp_path / "cifar10.npz")
    grey = data.load("cifar10", tmp_path / "cifar10.npz", channels=1)
    assert grey.train.images.shape == (1437, 4, 4, 1)
    np.testing.assert_array_equal(grey.train.images, data.load("digits", size=4).train.images)


def test_what_is_no_image_has_the_size_that_it_has():
    with pytest.raises(data.DataError, match=r"shape \(40, 1\) and type float32, .*set both to 0"):
        data.load("mnist1d", size=4)


def test_a_folder_that_is_missing_or_has_no_splits_is_named(tmp_path):
    with pytest.raises(
        data.DataError, match=r"/flowers does not exist\. Give a folder with images"
    ):
        data.load("flowers", tmp_path, size=4)
    (tmp_path / "flowers/daisy").mkdir(parents=True)
    with pytest.raises(
        data.DataError, match=r"/flowers has neither train/ nor test/\. Give a fold"
    ):
        data.load("flowers", tmp_path, size=4)


def test_more_than_the_memory_holds_is_refused(tmp_path, monkeypatch):
    make(tmp_path / "set")
    monkeypatch.setattr(memory, "host_bytes", lambda: 10**6)
    with pytest.raises(data.DataError, match=r"set/train: to hold all .*config\.data\.stream=auto"):
        data.load("set", tmp_path, size=4096)
    assert data.is_streamed(data.load("set", tmp_path, size=4096, stream="auto",
                                      device_limit_gib=0.01).train)  # fmt: skip


def test_names_that_are_no_folders_say_what_there_is(tmp_path):
    (tmp_path / "some" / "images").mkdir(parents=True)
    with pytest.raises(data.DataError, match=r"folder of images \(train/CLASS/\*, test/CLASS/\*\)"):
        data.load("some", tmp_path)


def test_a_folder_in_the_working_directory(tmp_path, monkeypatch):
    make(tmp_path / "set")
    monkeypatch.chdir(tmp_path / "set")
    assert data.load(".").name == "set"
    monkeypatch.chdir(tmp_path)
    assert data.load("./set").name == pathlib.Path("set").name
