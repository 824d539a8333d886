"""Damaged and hostile data of every reader: a data set or a DataError, soon, and nothing else."""

import gzip
import io
import json
import pathlib
import time
import warnings

import numpy as np
import pytest
import scipy.io.wavfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lconv_jax import data
from lconv_jax.data.augmentation import policies
from tests.data.test_data_idx import write_fashion

FUZZ = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SECONDS = 20  # of one reading, at most; all take a fraction of one

# One change of a file: a byte set, bytes put in, or bytes cut out, at a place of 0 … 1.
PLACE = st.floats(0, 1, exclude_max=True) | st.floats(0, 0.03)
CHANGE = st.one_of(
    st.tuples(st.just("set"), PLACE, st.sampled_from([b"\0", b"\1", b"\x7f", b"\xff", b"\x80"])),
    st.tuples(st.just("set"), PLACE, st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("put"), PLACE, st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("cut"), PLACE, st.integers(1, 64)),
    st.tuples(st.just("end"), PLACE, st.just(b"")),
)
CHANGES = st.lists(CHANGE, min_size=1, max_size=3)


def changed(content: bytes, changes) -> bytes:
    for kind, place, what in changes:
        at = int(place * len(content))
        if kind == "set":
            content = content[:at] + what + content[at + len(what) :]
        elif kind == "put":
            content = content[:at] + what + content[at:]
        else:
            content = content[:at] + (content[at + what :] if kind == "cut" else b"")
    return content


def outcome(read, *arguments):
    """What was read, or None for a DataError; whatever else is raised is a failure."""
    before = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # NaN made of what was read
            found = read(*arguments)
    except data.DataError:
        found = None
    assert time.monotonic() - before < SECONDS
    return found


def load(name, folder):
    found = outcome(data.load, name, folder)
    assert found is None or isinstance(found, data.Dataset)
    return found


@pytest.fixture(scope="module")
def npz_bytes():
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (12, 3, 2), dtype=np.uint8),
        "y_train": np.arange(12) % 3,
        "x_test": rng.integers(0, 256, (3, 3, 2), dtype=np.uint8),
        "y_test": np.arange(3),
    }
    files = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **arrays)
        files.append(file.getvalue())
    return files


@FUZZ
@given(changes=CHANGES, which=st.integers(0, 1))
def test_npz(tmp_path, npz_bytes, changes, which):
    (tmp_path / "set.npz").write_bytes(changed(npz_bytes[which], changes))
    load("set.npz", tmp_path)


def image_bytes(kind, mode):
    import PIL.Image

    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}
    PIL.Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


IMAGE_FILES = [
    *[(kind, "RGB") for kind in ("JPEG", "BMP", "TIFF", "PPM", "TGA", "PCX", "SGI", "WEBP", "ICO")],
    *[("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
    *[("GIF", "P"), ("TIFF", "I;16"), ("DDS", "RGBA"), ("MSP", "1")],
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of EXIF that is damaged
@settings(FUZZ, max_examples=100)
@given(
    changes=CHANGES,
    which=st.sampled_from(IMAGE_FILES),
    size=st.sampled_from([0, 3]),
    damaged=st.sampled_from(["train/a/0", "train/b/0", "test/a/0"]),
)
def test_folders_of_images(tmp_path, changes, which, size, damaged):
    good = image_bytes(*which)
    for place in ("train/a", "train/b", "test/a"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "0").write_bytes(good)
    assert outcome(data.load, str(tmp_path)) is not None
    (tmp_path / damaged).write_bytes(changed(good, changes))
    found = outcome(lambda: data.load(str(tmp_path), size=size))
    assert found is None or found.image_shape[:2] in ((5, 6), (6, 5), (3, 3))


@pytest.mark.slow
def test_every_byte_of_a_png(tmp_path):
    """What cannot be read names the file at fault, whatever its bytes say."""
    good = image_bytes("PNG", "RGB")
    for place in ("train/a", "train/b", "test/a"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "0.png").write_bytes(good)
    messages, taken = [], 0
    for at in range(len(good)):
        for value in (0, 255):
            damaged = good[:at] + bytes([value]) + good[at + 1 :]
            (tmp_path / "train/b/0.png").write_bytes(damaged)
            try:
                taken += data.load(str(tmp_path)).image_shape == (5, 6, 3)
            except data.DataError as error:
                messages.append(str(error))
    assert len(messages) + taken == 2 * len(good)
    assert len(messages) > 50
    assert all("train/b/0.png" in message for message in messages)


@FUZZ
@given(changes=CHANGES, which=st.integers(0, 3), compressed=st.booleans())
def test_idx(tmp_path, changes, which, compressed):
    write_fashion(tmp_path, compressed=False)
    path = sorted(tmp_path.glob("*ubyte"))[which]
    content = changed(path.read_bytes(), changes)
    path.write_bytes(gzip.compress(content) if compressed else content)
    load("fashion_mnist", tmp_path)


def wav_bytes(dtype, channels):
    file = io.BytesIO()
    samples = np.sin(np.arange(800) / 5) * (100 if dtype != np.float32 else 1)
    scipy.io.wavfile.write(file, 8000, np.stack([samples] * channels, 1).astype(dtype))
    return file.getvalue()


@pytest.mark.slow
@FUZZ
@given(
    changes=CHANGES,
    dtype=st.sampled_from([np.uint8, np.int16, np.int32, np.float32]),
    channels=st.integers(1, 2),
)
def test_wav(tmp_path, changes, dtype, channels):
    good = wav_bytes(dtype, channels)
    for name in ("0_a_0", "1_a_0", "0_b_0"):
        (tmp_path / f"{name}.wav").write_bytes(good)
    assert load("spoken_digits", tmp_path) is not None
    (tmp_path / "1_a_0.wav").write_bytes(changed(good, changes))
    load("spoken_digits", tmp_path)


@pytest.mark.slow
def test_every_byte_of_a_wav_header(tmp_path):
    good = wav_bytes(np.int16, 1)
    for name in ("0_a_0", "1_a_0", "0_b_0"):
        (tmp_path / f"{name}.wav").write_bytes(good)
    taken = 0
    for at in range(44):
        for value in (0, 1, 2, 127, 128, 255):
            (tmp_path / "1_a_0.wav").write_bytes(good[:at] + bytes([value]) + good[at + 1 :])
            taken += load("spoken_digits:frames=2,mels=2", tmp_path) is not None
    assert 20 < taken < 50  # those that stay as they are, and sizes of the file below its own


FASTA = b">a label=x\nACGTN\nACGT\n>b label=y\nACGUACGUA\n>c label=x\nTTTTTTTTT\n"


@FUZZ
@given(changes=CHANGES, compressed=st.booleans(), length=st.integers(0, 12))
def test_fasta(tmp_path, changes, compressed, length):
    content = changed(FASTA, changes)
    (tmp_path / "test.fa").write_bytes(FASTA)
    (tmp_path / "train.fa").write_bytes(gzip.compress(content) if compressed else content)
    load(f"dna:length={length}", tmp_path)


@FUZZ
@given(
    changes=CHANGES,
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-32", "utf-16-le"]),
    compressed=st.booleans(),
)
def test_word_lists(tmp_path, changes, encoding, compressed):
    for language, letters in (("one", "abcdé"), ("two", "vwxyü")):
        entries = [f"{a}{b}{c}{b}" for a in letters for b in letters for c in letters]
        (tmp_path / language).write_text("\n".join(entries), "utf-8")
    content = changed((tmp_path / "two").read_text("utf-8").encode(encoding), changes)
    (tmp_path / "two").write_bytes(gzip.compress(content) if compressed else content)
    load("words:examples=20,test=4,stem=4", tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of a prepared set's files."""
    tfds = pytest.importorskip("tensorflow_datasets")
    from tests.data import tfds_made

    features = {
        "image": tfds.features.Image(shape=(4, 5, 3)),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    rng = np.random.default_rng(0)
    examples = [
        {"image": tfds_made.png(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)), "label": i % 2}
        for i in range(6)
    ]
    where = tfds_made.make(
        tmp_path_factory.mktemp("made"), features, {"train": examples, "test": examples}
    )
    return pathlib.Path(where)


def walk(value, path=()):
    """The paths of all that is in a JSON value."""
    if path:
        yield path
    for key, inner in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        yield from walk(inner, (*path, key))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["-1", "0", "99999999999999999999", "os.path", "tensorflow_datasets.nothing"]
    ),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)


@pytest.mark.slow
@FUZZ
@given(which=st.sampled_from(["dataset_info.json", "features.json"]), data_=st.data())
def test_metadata_of_a_prepared_set(prepared, which, data_):
    path = prepared / which
    content = path.read_bytes()
    value = json.loads(content)
    if data_.draw(st.booleans()):
        place = data_.draw(st.sampled_from(sorted(walk(value), key=str)))
        inner = value
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = data_.draw(JSON)
        damaged = json.dumps(value).encode()
    else:
        damaged = changed(content, data_.draw(CHANGES))
    try:
        path.write_bytes(damaged)
        load(str(prepared), None)
    finally:
        path.write_bytes(content)


@FUZZ
@given(changes=CHANGES)
def test_policy_files(tmp_path, changes):
    path = tmp_path / "policy.json"
    path.write_bytes(
        changed(b'[[["rotate", 0.5, 10], ["invert", 0.1]], [["color", 1, 1.5]]]', changes)
    )
    outcome(policies.load, f"policy:{path}")


MADE = {
    "nlgp": ("length", "xi1", "xi2", "gain", "power", "examples", "test", "seed"),
    "gp_2d": ("side", "xi1", "gain", "examples", "test"),
    "planted": ("kind", "length", "units", "window", "correlation", "margin", "examples", "seed"),
    "mnist1d": ("examples", "test", "seed"),
    "dna_motifs": (
        "length",
        "motif",
        "classes",
        "conserved",
        "jitter",
        "apart",
        "examples",
        "seed",
    ),
}
SMALL = {
    "nlgp": "length=6,examples=8,test=4",
    "gp_2d": "side=4,examples=8,test=4",
    "planted": "length=8,units=2,window=2,examples=8,test=4",
    "mnist1d": "examples=20,test=10",
    "dna_motifs": "length=12,motif=4,classes=2,jitter=0,examples=8,test=4",
}
HUGE = ["-1", "0", "1e400", "nan", "inf", "-inf", "1e-320", "1e308", "x", "", "1" * 5000]
HUGE += [str(sign * 10**power) for power in (9, 12, 18, 30) for sign in (1, -1)]


@FUZZ
@given(data_=st.data())
def test_options(data_):
    name = data_.draw(st.sampled_from(sorted(MADE)))
    key = data_.draw(st.sampled_from(MADE[name]))
    others = [item for item in SMALL[name].split(",") if not item.startswith(f"{key}=")]
    value = data_.draw(st.sampled_from(HUGE))
    load(f"{name}:{','.join([*others, f'{key}={value}'])}", None)
