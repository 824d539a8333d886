"""Spoken digits: spectrograms of WAV files, division by speaker, and what is refused."""

import os
import shutil
import struct
import warnings

import numpy as np
import pytest
import scipy.io.wavfile

from lconv_jax import data
from lconv_jax.data import make_spoken_digits
from lconv_jax.data.sources import spoken_digits, wav

SETTINGS = {"hop": 20, "window": 32, "mels": 32, "low": 60, "decibels": 60}


def tone(frequency, rate=8000, seconds=0.4, loud=1.0):
    return loud * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)


def write(folder, name, samples, rate=8000, dtype=np.int16):
    folder.mkdir(exist_ok=True)
    if np.issubdtype(dtype, np.integer):
        middle = 128 if dtype == np.uint8 else 0
        samples = np.round(samples * (np.iinfo(dtype).max - middle) * 0.9 + middle)
    scipy.io.wavfile.write(folder / name, rate, samples.astype(dtype))


def make_folder(folder, speakers=("ann", "bob", "cy"), labels=(0, 1, 7), repeats=2):
    for label in labels:
        for number, speaker in enumerate(speakers):
            for index in range(repeats):
                samples = tone(300 * (1 + label) + 20 * number + 5 * index)
                write(folder, f"{label}_{speaker}_{index}.wav", samples)
    return folder


def loudest(image):
    """Mel band with the most energy."""
    return int(np.asarray(image, float).sum(axis=(0, 2)).argmax())


def nearest_band(frequency, rate=8000, mels=32, low=60):
    def mel(f):
        return 2595 * np.log10(1 + f / 700)

    corners = np.linspace(mel(low), mel(rate / 2), mels + 2)
    return int(np.abs(corners[1:-1] - mel(frequency)).argmin())


@pytest.mark.parametrize("frequency", [200, 440, 1000, 2500, 3600])
def test_a_tone_is_in_its_band(frequency):
    spectrogram = spoken_digits.log_mel(tone(frequency), 8000, **SETTINGS)
    assert loudest(spectrogram[..., None]) == nearest_band(frequency)
    assert spectrogram.shape == (21, 32)  # 0.4 s, a frame every 20 ms from 0 on
    assert spectrogram.max() == 0
    assert spectrogram.min() == -60


def test_half_the_amplitude_is_six_decibels_less():
    both = np.concatenate([tone(1000), tone(1000, loud=0.5)])
    found = spoken_digits.log_mel(both, 8000, **SETTINGS)[[10, 30], nearest_band(1000)]
    np.testing.assert_allclose(found[0] - found[1], 20 * np.log10(2), atol=0.05)


def test_the_scale_of_the_samples_does_not_matter():
    samples = np.random.default_rng(0).normal(size=3000)
    one, other = (spoken_digits.log_mel(s, 8000, **SETTINGS) for s in (samples, 1000 * samples))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_neighbouring_bands_add_to_one():
    bands = spoken_digits.mel_bands(20, 4096, 8000, 100)
    frequencies = np.arange(2049) * 8000 / 4096
    total = bands.sum(0)
    assert total[frequencies < 100].max() == 0
    centres = bands.argmax(1)
    np.testing.assert_allclose(total[centres[0] + 1 : centres[-1]], 1, atol=1e-12)
    assert (bands.max(1) > 0.9).all()
    assert (np.diff(centres) > 0).all()


def test_a_folder_is_divided_by_speaker(tmp_path):
    loaded = data.load("spoken_digits", make_folder(tmp_path / "set"))
    assert (loaded.num_classes, loaded.image_shape) == (3, (32, 32, 1))
    assert loaded.train.images.dtype == np.uint8
    assert loaded.train.labels.dtype == np.int32
    # Fewer than five speakers: the last is for testing. Labels 0, 1, 7 are classes 0, 1, 2.
    assert sorted(loaded.test.labels) == [0, 0, 1, 1, 2, 2]
    assert np.bincount(loaded.train.labels).tolist() == [4, 4, 4]
    frequencies = {0: 300, 1: 600, 2: 2400}
    for image, label in zip(*loaded.train, strict=True):
        assert abs(loudest(image) - nearest_band(frequencies[int(label)])) <= 1


def test_the_speakers_are_chosen(tmp_path):
    folder = make_folder(tmp_path / "set", labels=(0, 1))
    chosen = data.load("spoken_digits:test_speakers=ann+cy", folder)
    assert (len(chosen.train.labels), len(chosen.test.labels)) == (4, 8)
    by_ann = spoken_digits.read("spoken_digits:test_speakers=ann", folder).test
    both = chosen.test.images.reshape(8, -1)
    for image in by_ann.images.reshape(4, -1):
        assert (both == image).all(1).any()


def test_speakers_are_left_out(tmp_path):
    speakers = ("ann", "bob", "cy", "dora")
    folder = make_folder(tmp_path / "set", speakers, labels=(0, 1))
    left = spoken_digits.read("spoken_digits:without=dora+ann", folder)
    assert left.test_file.endswith("(cy)")
    assert left.train_file.endswith("(all but ann, cy, dora)")
    whole = spoken_digits.read("spoken_digits:test_speakers=bob+cy", folder).test
    both = np.concatenate([left.train.images, left.test.images])
    assert sorted(map(bytes, both)) == sorted(map(bytes, whole.images))


def test_every_fifth_speaker_is_for_testing(tmp_path):
    speakers = [f"s{number:02d}" for number in range(11)]
    folder = make_folder(tmp_path / "set", speakers, labels=(0, 1), repeats=1)
    source = spoken_digits.read("spoken_digits", folder)
    assert source.test_file.endswith("(s04, s09)")
    assert len(source.test.labels) == 4


def test_the_sample_rate_does_not_matter(tmp_path):
    """The same sound, below 4 kHz, at three rates, as integers, floats and in stereo."""
    for speaker, rate in (("a", 8000), ("b", 22050), ("c", 48000)):
        sound = tone(500, rate) + tone(1500, rate, loud=0.3)
        write(tmp_path, f"0_{speaker}_0.wav", sound / 2, rate)
        write(tmp_path, f"1_{speaker}_0.wav", sound / 2, rate, np.float32)
        write(tmp_path, f"2_{speaker}_0.wav", np.stack([sound, sound], 1) / 2, rate)
        write(tmp_path, f"3_{speaker}_0.wav", sound / 2, rate, np.uint8)
    source = spoken_digits.read("spoken_digits:frames=16,range=30", tmp_path)
    images = np.concatenate([source.train.images, source.test.images]).astype(int)
    # Away from the ends, where a tone that begins at once has all frequencies.
    middle = images[:, 3:13]
    assert np.abs(middle - middle[:1]).max() <= 20  # of 255: 2.4 dB
    assert {loudest(image) for image in images} == {nearest_band(500)}


def test_silence_is_cut_off_and_what_is_short_is_centred(tmp_path):
    quiet = np.zeros(4000)
    write(tmp_path, "0_a_0.wav", tone(800))
    write(tmp_path, "0_b_0.wav", np.concatenate([quiet, tone(800), quiet, quiet]))
    write(tmp_path, "0_c_0.wav", tone(800, seconds=3))
    write(tmp_path, "1_a_0.wav", np.zeros(100))
    write(tmp_path, "1_b_0.wav", tone(2000, seconds=0.001))  # shorter than the window
    source = spoken_digits.read("spoken_digits:test_speakers=b+c", tmp_path)
    alone, silent = source.train.images[..., 0]
    padded, tiny, long = source.test.images[..., 0]
    sounding = np.flatnonzero(alone.max(1))
    assert sounding[0] == 5  # 21 frames in the middle of 32
    assert sounding[-1] == 25
    assert abs(np.flatnonzero(padded.max(1)).mean() - 15.5) <= 1
    assert (long.max(1) > 0).all()
    assert not silent.any()
    assert tiny.max() == 255


def test_the_digest_is_that_of_the_recordings(tmp_path):
    folder = make_folder(tmp_path / "set")
    inner = tmp_path / "other"
    inner.mkdir()
    shutil.copytree(folder, inner / "recordings")
    assert data.digest(data.load("spoken_digits", folder)) == data.digest(
        data.load("spoken_digits", inner)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("frames=0", "frames = 0 must be ≥ 1"),
        ("window=10", "window = 10 ms must be at least hop = 20 ms"),
        ("rate=20", "hop must be a sample or more"),
        ("low=4000", "low = 4000 Hz must be in 0 … rate / 2 = 4000"),
        ("mels=1000000000", "would take .* GiB .*Lower frames, mels"),
        ("frames=1000000000000", "would take .* GiB"),
        ("window=10000000", "window = 10000000 must be ≤ 1000"),
        ("rate=4000000000", "rate = 4000000000 must be ≤ 1000000"),
        ("range=1000", "range = 1000 must be ≤ 300"),
        ("test_speakers=dora", "must be some, not all, of the speakers.*ann, bob, cy"),
        ("test_speakers=ann+bob+cy", "must be some, not all"),
        ("without=dora", "without = dora must be some, not all, of the speakers.*ann, bob, cy"),
        ("without=ann,test_speakers=ann", "test_speakers = ann must be some.*: bob, cy"),
        ("without=ann+bob", "all recordings are by cy; two speakers"),
    ],
)
def test_options_are_checked(tmp_path, options, message):
    with pytest.raises(data.DataError, match=message):
        data.load(f"spoken_digits:{options}", make_folder(tmp_path / "set", repeats=1))


def test_bad_files_are_named(tmp_path):
    folder = make_folder(tmp_path / "set", repeats=1)
    write(folder, "nolabel.wav", tone(300))
    with pytest.raises(data.DataError, match=r"nolabel\.wav: its name does not say.*7_jackson_32"):
        data.load("spoken_digits", folder)
    (folder / "nolabel.wav").unlink()
    for content in (b"", b"RIFF", b"text", (folder / "0_ann_0.wav").read_bytes()[:30]):
        (folder / "1_ann_5.wav").write_bytes(content)
        with pytest.raises(data.DataError, match=r"1_ann_5\.wav: damaged or not a WAV file"):
            data.load("spoken_digits", folder)
    write(folder, "1_ann_5.wav", np.full(9, np.nan), dtype=np.float32)
    with pytest.raises(data.DataError, match=r"1_ann_5\.wav: has NaN"):
        data.load("spoken_digits", folder)


def changed_wav(folder, **fields):
    """A good file but for some fields of its header, at their places in bytes."""
    folder = make_folder(folder, repeats=1)
    path = folder / "0_ann_0.wav"
    content = bytearray(path.read_bytes())
    for at, (size, value) in fields.items():
        at = int(at.removeprefix("at"))
        content[at : at + size] = value.to_bytes(size, "little")
    path.write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"at4": (4, 0), "at40": (4, 0)}, "states 0 bytes of samples"),
        ({"at40": (4, 6401)}, "the samples should have 6401 bytes, and 6400 are there"),
        ({"at4": (4, 6437)}, "the file should have 6445 bytes, and 6444 are there"),
        ({"at22": (2, 0)}, "0 channels"),
        ({"at24": (4, 0)}, "0 samples a second; 1000 … 1000000 are accepted"),
        ({"at24": (4, 1)}, "1 samples a second"),
        ({"at24": (4, 4 * 10**9)}, "4000000000 samples a second"),
        ({"at32": (2, 0)}, "0 bytes for a sample"),
        ({"at34": (2, 99)}, "samples of 99 bits in 2 bytes"),
        ({"at20": (2, 7)}, "MULAW"),
    ],
)
def test_headers_that_cannot_be_are_refused(tmp_path, fields, message):
    with pytest.raises(data.DataError, match=rf"0_ann_0\.wav: damaged or not a WAV.*{message}"):
        data.load("spoken_digits", changed_wav(tmp_path / "set", **fields))


def test_a_stream_s_sizes_are_good(tmp_path):
    streamed = {"at4": (4, 0xFFFFFFFF), "at40": (4, 0xFFFFFFFF)}
    expected = data.digest(data.load("spoken_digits", changed_wav(tmp_path / "a")))
    assert data.digest(data.load("spoken_digits", changed_wav(tmp_path / "b", **streamed))) == (
        expected
    )


@pytest.mark.parametrize("kept", [46, 3000])
def test_a_file_that_was_cut_is_refused(tmp_path, kept):
    folder = make_folder(tmp_path / "set", repeats=1)
    (folder / "0_ann_0.wav").write_bytes((folder / "0_ann_0.wav").read_bytes()[:kept])
    with pytest.raises(data.DataError, match=rf"0_ann_0\.wav: damaged.*and {kept} are there"):
        data.load("spoken_digits", folder)


@pytest.mark.parametrize("kind", ["RIFX", "RF64", "24 bits", "odd chunk"])
def test_other_kinds_of_wav_are_read_like_scipy_does(tmp_path, kind):
    samples = np.arange(-50, 50, dtype="<i2")
    form, body, magic, size = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16), b"", b"RIFF", "<I"
    content = samples.tobytes()
    if kind == "RIFX":
        magic, size, content = b"RIFX", ">I", samples.astype(">i2").tobytes()
        form = struct.pack(">HHIIHH", 1, 1, 8000, 16000, 2, 16)
    elif kind == "24 bits":
        form = struct.pack("<HHIIHH", 1, 1, 8000, 24000, 3, 24)
        content = b"".join(int(s).to_bytes(3, "little", signed=True) for s in samples)
    elif kind == "odd chunk":
        body = b"note" + struct.pack("<I", 3) + b"abc\0"
    stated = struct.pack(size, len(content))
    whole = 4 + len(body) + 24 + 8 + len(content)
    if kind == "RF64":
        magic, stated = b"RF64", b"\xff" * 4
        body = b"ds64" + struct.pack("<IQQQI", 28, whole + 36, len(content), 0, 0)
    riff = b"\xff" * 4 if kind == "RF64" else struct.pack(size, whole)
    file = magic + riff + b"WAVE" + body + b"fmt " + struct.pack(size, 16) + form
    (tmp_path / "a.wav").write_bytes(file + b"data" + stated + content)
    rate, read = wav.read(tmp_path / "a.wav")
    assert rate == 8000
    np.testing.assert_array_equal(read, samples.astype(int) << (8 if kind == "24 bits" else 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.io.wavfile.WavFileWarning)
        np.testing.assert_array_equal(read, scipy.io.wavfile.read(tmp_path / "a.wav")[1])


def test_a_fifo_is_not_waited_for(tmp_path):
    folder = make_folder(tmp_path / "set", repeats=1)
    os.mkfifo(folder / "1_ann_9.wav")
    with pytest.raises(data.DataError, match=r"1_ann_9\.wav: is no regular file"):
        data.load("spoken_digits", folder)


def test_a_class_must_be_heard_in_training(tmp_path):
    folder = make_folder(tmp_path / "set", repeats=1)
    write(folder, "9_cy_0.wav", tone(300))
    with pytest.raises(data.DataError, match=r"only the test speakers \(cy\) say '9'"):
        data.load("spoken_digits", folder)


def test_one_speaker_is_not_enough(tmp_path):
    with pytest.raises(data.DataError, match="all recordings are by ann; two speakers"):
        data.load("spoken_digits", make_folder(tmp_path / "set", ("ann",)))


def test_nothing_there_gets_the_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for folder in (None, tmp_path, tmp_path / "none"):
        with pytest.raises(data.DataError, match=r"LABEL_SPEAKER_INDEX") as error:
            data.load("spoken_digits", folder)
        assert "lconv_jax.data.make_spoken_digits FOLDER" in str(error.value)
        assert "lconv_jax.data.prepare spoken_digit" in str(error.value)


def write_records(folder, recordings):
    """What TFDS 4.9 writes for spoken_digit; its own writer needs TensorFlow and pydub."""
    writer = pytest.importorskip("array_record.python.array_record_module").ArrayRecordWriter
    proto = pytest.importorskip("tensorflow_datasets.proto").tf_example_pb2
    folder.mkdir(parents=True)
    file = writer(str(folder / "spoken_digit-train.array_record-00000-of-00001"), "group_size:1")
    for name, samples in recordings.items():
        example = proto.Example()
        feature = example.features.feature
        feature["audio"].int64_list.value.extend(np.round(samples * 30000).astype(int).tolist())
        feature["audio/filename"].bytes_list.value.append(name.encode())
        feature["label"].int64_list.value.append(int(name[0]))
        file.write(example.SerializeToString())
    file.close()


def test_a_set_of_tfds_is_read_like_its_files(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "set")
    recordings = {
        path.name: scipy.io.wavfile.read(path)[1] / 30000 for path in sorted(folder.iterdir())
    }
    write_records(tmp_path / "tfds/spoken_digit/1.0.9", recordings)
    write_records(tmp_path / "tfds/spoken_digit/1.0.10", dict(list(recordings.items())[::-1]))
    digests = {data.digest(data.load("spoken_digits", folder))}
    digests.add(data.digest(data.load("spoken_digits", tmp_path / "tfds")))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    digests.add(data.digest(data.load("spoken_digits")))
    assert len(digests) == 1
    (path,) = (tmp_path / "tfds/spoken_digit/1.0.10").iterdir()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(data.DataError, match=r"1\.0\.10.*prepare the set again"):
        data.load("spoken_digits")


@pytest.mark.slow
def test_tfds_writes_what_is_read(tmp_path):
    """TFDS's own features and writer, on arrays in the place of files."""
    pytest.importorskip("tensorflow")
    tfds = pytest.importorskip("tensorflow_datasets")
    recordings = {f"{d}_{s}_0.wav": tone(300 * (d + 1)) for d in (0, 1) for s in ("ann", "bob")}

    class SpokenDigit(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.9")

        def _info(self):
            features = {
                "audio": tfds.features.Audio(file_format="wav", sample_rate=8000),
                "label": tfds.features.ClassLabel(num_classes=10),
                "audio/filename": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for name, samples in recordings.items():
                audio = np.round(samples * 30000).astype(np.int64)
                yield name, {"audio": audio, "label": int(name[0]), "audio/filename": name}

    builder = SpokenDigit(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    loaded = data.load("spoken_digits", tmp_path)
    assert loaded.train.images.shape == (2, 32, 32, 1)
    bands = [loudest(image) for image in loaded.train.images]
    assert bands == [nearest_band(300), nearest_band(600)]


def test_espeak_must_be_installed(tmp_path):
    with pytest.raises(data.DataError, match=r"no-such-espeak: no such program.*apt install"):
        make_spoken_digits.make_spoken_digits(tmp_path, program="no-such-espeak")
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_espeak_speaks(tmp_path):
    make = make_spoken_digits.make_spoken_digits
    assert make(tmp_path / "one", repeats=1, voices=("m1", "f2")) == 20
    make(tmp_path / "again", repeats=1, voices=("m1", "f2"))
    make(tmp_path / "other", repeats=1, seed=1, voices=("m1", "f2"))
    one, again, other = (
        data.load("spoken_digits", tmp_path / name) for name in ("one", "again", "other")
    )
    assert data.digest(one) == data.digest(again) != data.digest(other)
    assert one.num_classes == 10
    assert sorted(one.test.labels) == list(range(10))
    assert all(image.max() == 255 for image in one.train.images)
    assert len({image.tobytes() for image in one.train.images}) == 10
    with pytest.raises(data.DataError, match="has WAV files already"):
        make(tmp_path / "one", repeats=1)
    with pytest.raises(data.DataError, match="has no voice nobody"):
        make(tmp_path / "two", repeats=1, voices=("m1", "nobody"))
