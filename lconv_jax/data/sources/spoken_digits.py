"""Spoken digits, or any labelled WAV files, as log-mel spectrograms; other voices for testing.

    spoken_digits                                        all options at their defaults
    spoken_digits:frames=40,test_speakers=theo+nicolas   others

Read from one of
  a folder of WAV files named LABEL_SPEAKER_INDEX.wav, as 7_jackson_32.wav, as `data_dir`, or its
    subfolder `recordings`: the Free Spoken Digit Dataset
    (https://github.com/Jakobovski/free-spoken-digit-dataset, 3 000 recordings by 6 speakers,
    CC BY-SA 4.0), or what `python -m lconv_jax.data.make_spoken_digits FOLDER` speaks, or your own;
  `spoken_digit` as TFDS prepared it (2 500 recordings of the same), under `data_dir` or TFDS's
    default; its ArrayRecord files are read without TensorFlow.

The classes are the labels, in order of number if all are numbers, else alphabetical. A speaker's
recordings are all for training or all for testing. Images are uint8 [N, frames, mels, 1]: time,
then mel band from low to high. 0 is `range` dB or more below the recording's loudest value, 255
the loudest, linear in dB between. See `log_mel` for how they are computed. Silence at both ends is
left out; what is longer than the frames is cut evenly at both ends, and what is shorter is padded
so with 0. Without recordings a DataError says how to get some.

Options (and defaults):
  frames (32), mels (32): shape of an image.
  hop (20), window (32): milliseconds from one frame to the next, and that a frame sees (≤ 1000).
  rate (8000): samples a second that each recording is brought to, at most 1 000 000.
  low (60): Hz where the lowest band begins; the highest ends at rate / 2.
  range (60): dB between 0 and 255, at most 300.
  without (""): speakers to leave out altogether, their names joined by +. With the test speakers
    here, settings are chosen by speakers who are neither trained on nor tested with.
  test_speakers (""): their names, joined by +; empty: of those that are left, every fifth in
    alphabetical order, or the last, if there are fewer than five.
"""

from __future__ import annotations

import functools
import math
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lconv_jax.data import dataset, files, limits
from lconv_jax.data.options import at_least, parse, require, require_memory
from lconv_jax.data.sources import tfds, wav
from lconv_jax.errors import DataError

DEFAULTS = {
    "frames": 32,
    "mels": 32,
    "hop": 20,
    "window": 32,
    "rate": 8000,
    "low": 60,
    "range": 60,
    "without": "",
    "test_speakers": "",
}
_TFDS_NAME = "spoken_digit"
_TFDS_RATE = 8000
_MOST_WINDOW, _MOST_RANGE = 1000, 300
_MOST_SAMPLE = 1e30  # beyond it, squares are no numbers of use
_NAME = re.compile(r"([^_]+)_(.+)_([^_]+)\.wav", re.IGNORECASE)
_REMEDY = (
    "Give as data.data_dir a folder of WAV files named LABEL_SPEAKER_INDEX.wav, as the recordings "
    "of https://github.com/Jakobovski/free-spoken-digit-dataset are; or make one with\n"
    "    python -m lconv_jax.data.make_spoken_digits FOLDER\n"
    "or use TFDS (which needs pydub for it):\n"
    '    pip install "lconv_jax[tfds]" pydub\n'
    f"    python -m lconv_jax.data.prepare {_TFDS_NAME}"
)


class _Recording(NamedTuple):
    label: str
    speaker: str
    number: str
    where: str
    rate: int
    samples: NDArray[Any]  # [n] or [n, channels]


def read(name: str, data_dir: str | os.PathLike[str] | None) -> dataset.Source:
    """The recordings as this module's docstring says.

    Args:
      name: "spoken_digits", with options behind it.
      data_dir: the folder of the WAV files, or where TFDS prepared the set.

    Raises:
      DataError: nothing is there, a file is damaged or its name is no label and speaker, a speaker
        is not there, a class has no recording for training, or an option is out of range.
    """
    options = parse(name, DEFAULTS)
    _check(name, options)
    folder = None if data_dir is None else files.place(data_dir)
    left_out = set(filter(None, options["without"].split("+")))
    speakers: set[str] = set()
    images: list[NDArray[np.uint8]] = []
    found = []
    for recording in _recordings(folder):
        speakers.add(recording.speaker)
        if recording.speaker in left_out:
            continue
        _check_memory(name, recording, options, len(images) + 1)
        images.append(_image(recording, options))
        found.append(recording._replace(samples=np.zeros(0)))
    _require_some(name, "without", left_out, speakers)
    where = os.path.dirname(found[0].where)
    labels = dataset.class_names(recording.label for recording in found)
    testing = _test_speakers(name, options["test_speakers"], speakers - left_out)
    # One of each speaker and label in turn, so that the first of a class are of all speakers.
    order = sorted(range(len(found)), key=lambda at: _turn(found[at]))
    sides = {
        side: [at for at in order if (found[at].speaker in testing) == side]
        for side in (False, True)
    }
    for label in labels:
        if not any(found[at].label == label for at in sides[False]):
            raise DataError(
                f"{where}: only the test speakers ({', '.join(sorted(testing))}) say {label!r}. "
                f"Choose others as test_speakers in data.name = {name!r}"
            )
    train, test = (
        dataset.Split(
            np.stack([images[at] for at in side]),
            np.array([labels.index(found[at].label) for at in side], np.int32),
        )
        for side in sides.values()
    )
    return dataset.Source(
        name="spoken_digits",
        num_classes=len(labels),
        train=train,
        test=test,
        train_file=f"{where} (all but {', '.join(sorted(testing | left_out))})",
        test_file=f"{where} ({', '.join(sorted(testing))})",
        class_names=tuple(labels),
    )


def log_mel(
    samples: NDArray[np.floating],
    rate: int,
    *,
    hop: float,
    window: float,
    mels: int,
    low: float,
    decibels: float,
) -> NDArray[np.float32]:
    """Log-mel spectrogram of a recording: decibels relative to its loudest value.

    Power of the Fourier transform of frames under a Hann window (`scipy.signal.stft`, padded with
    zeros to at least four times the window), summed in triangular bands.

    Args:
      samples: [n], of any scale.
      rate: samples a second.
      hop, window: in milliseconds.
      mels, low: number of bands, and Hz where they begin; see `mel_bands`.
      decibels: what is quieter than the loudest value by more than this is set to −decibels.

    Returns:
      float32 [frames, mels], −decibels … 0; all −decibels if the recording is silent.
    """
    import scipy.signal

    step, width = round(rate * hop / 1000), round(rate * window / 1000)
    size = 1 << (4 * width - 1).bit_length()
    width = min(width, len(samples))
    _, _, spectrum = scipy.signal.stft(
        samples, nperseg=width, noverlap=max(0, width - step), nfft=size, padded=True
    )
    power = _sparse_bands(mels, size, rate, low) @ (spectrum.real**2 + spectrum.imag**2)
    floor = 10 ** (-decibels / 10)
    relative = power / max(power.max(), np.finfo(np.float64).tiny)
    return (10 * np.log10(np.maximum(relative, floor))).T.astype(np.float32)


def mel_bands(mels: int, size: int, rate: int, low: float) -> NDArray[np.float64]:
    """Weights [mels, size // 2 + 1] of a Fourier transform's bins in triangular mel bands.

    The bands' corners lie evenly on the mel scale, m = 2595 · log10(1 + f / 700) (O'Shaughnessy,
    Speech Communication, 1987), from `low` to rate / 2; band i rises from corner i to 1 at corner
    i + 1 and falls to 0 at corner i + 2, linearly in mel. Neighbours add to 1.
    """

    def mel(frequency: Any) -> Any:
        return 2595 * np.log10(1 + np.asarray(frequency) / 700)

    corners = np.linspace(mel(low), mel(rate / 2), mels + 2)
    bins = mel(np.arange(size // 2 + 1) * rate / size)
    width = corners[1] - corners[0]
    return np.maximum(0, 1 - np.abs(bins - corners[1:-1, None]) / width)


@functools.lru_cache(maxsize=8)
def _sparse_bands(mels: int, size: int, rate: int, low: float) -> Any:
    # A bin is in two bands at most; as a dense product it would be most of the work of reading.
    import scipy.sparse

    return scipy.sparse.csr_array(mel_bands(mels, size, rate, low))


def _image(recording: _Recording, options: dict[str, Any]) -> NDArray[np.uint8]:
    """[frames, mels, 1], 0 … 255."""
    samples, rate = _resampled(recording, options["rate"]), options["rate"]
    decibels = float(options["range"])
    spectrogram = log_mel(
        samples,
        rate,
        hop=options["hop"],
        window=options["window"],
        mels=options["mels"],
        low=options["low"],
        decibels=decibels,
    )
    # A frame whose loudest band is barely above the floor is not yet, or no longer, speech.
    loud = np.flatnonzero(spectrogram.max(1) > -0.75 * decibels)
    if len(loud):
        spectrogram = spectrogram[loud[0] : loud[-1] + 1]
    levels = np.round((1 + spectrogram / decibels) * 255).astype(np.uint8)
    return _centred(levels, options["frames"])[..., None]


def _centred(levels: NDArray[np.uint8], frames: int) -> NDArray[np.uint8]:
    """The middle `frames` rows, or all with rows of 0 around them."""
    spare = frames - len(levels)
    if spare < 0:
        start = -spare // 2
        return levels[start : start + frames]
    return np.pad(levels, ((spare // 2, spare - spare // 2), (0, 0)))


def _resampled(recording: _Recording, rate: int) -> NDArray[np.float64]:
    import scipy.signal

    samples = recording.samples
    unsigned = samples.dtype == np.uint8
    with np.errstate(invalid="ignore"):  # NaN is said below
        samples = samples.astype(np.float64) - (128 if unsigned else 0)
    if not len(samples) or not (np.abs(samples) < _MOST_SAMPLE).all():
        problem = "NaN, infinite or huge samples" if len(samples) else "no samples"
        raise DataError(f"{recording.where}: has {problem}. Record it again or remove it")
    if samples.ndim == 2:
        samples = samples.mean(1)
    if recording.rate == rate:
        return samples
    common = math.gcd(recording.rate, rate)
    up, down = rate // common, recording.rate // common
    return scipy.signal.resample_poly(samples, up, down, window=_low_pass(max(up, down)))


@functools.lru_cache(maxsize=8)
def _low_pass(factor: int) -> NDArray[np.float64]:
    """The filter that `resample_poly` makes by default, which takes longer than its use."""
    import scipy.signal

    return scipy.signal.firwin(20 * factor + 1, 1 / factor, window=("kaiser", 5.0))


def _recordings(folder: pathlib.Path | None) -> Iterator[_Recording]:
    if folder is not None:
        for place in (folder, folder / "recordings"):
            paths = sorted(place.glob("*.[wW][aA][vV]"))
            if paths:
                return (_from_file(path) for path in paths)
    prepared = _prepared(folder)
    if prepared:
        return _from_records(prepared)
    where = "TFDS's default folder" if folder is None else str(folder)
    raise DataError(f"spoken_digits: no WAV files and no set of TFDS in {where}. {_REMEDY}")


def _from_file(path: pathlib.Path) -> _Recording:
    label, speaker, index = _parts(path.name, str(path))
    rate, samples = wav.read(path)
    return _Recording(label, speaker, index, str(path), rate, samples)


def _parts(file_name: str, where: str) -> tuple[str, str, str]:
    match = _NAME.fullmatch(file_name)
    if match is None:
        raise DataError(
            f"{where}: its name does not say label and speaker. Name it LABEL_SPEAKER_INDEX.wav, "
            "as 7_jackson_32.wav, or remove it"
        )
    label, speaker, index = match.groups()
    return label, speaker, index


def _prepared(folder: pathlib.Path | None) -> list[pathlib.Path]:
    """The ArrayRecord files of the newest version TFDS prepared there."""
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    place = (folder or files.place(default)) / _TFDS_NAME
    versions = {path.parent for path in place.glob(f"*/{_TFDS_NAME}-train.array_record*")}
    if not versions:
        return []
    newest = max(versions, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])
    return sorted(newest.glob(f"{_TFDS_NAME}-train.array_record*"))


def _from_records(paths: list[pathlib.Path]) -> Iterator[_Recording]:
    # Not through TFDS's builder: its Audio feature needs TensorFlow even to be described.
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    for path in paths:
        tfds.require_regular(path)
        with files.reading(path, tfds.AGAIN):
            reader = array_record_module.ArrayRecordReader(str(path))
            records = reader.read_all()
            # A file that is cut short may be no error to the reader, but without records.
            if not records or not reader.ok() or len(records) != reader.num_records():
                raise ValueError("damaged, or no records")
        for number, record in enumerate(records):
            with files.reading(f"{path}, record {number}", tfds.AGAIN):
                feature = tf_example_pb2.Example.FromString(record).features.feature
                file_name = feature["audio/filename"].bytes_list.value[0].decode()
                samples = np.array(feature["audio"].int64_list.value, np.int64)
            parts = _parts(file_name, f"{path}: {file_name}")
            yield _Recording(*parts, f"{path.parent}/{file_name}", _TFDS_RATE, samples)


def _test_speakers(name: str, chosen: str, speakers: set[str]) -> set[str]:
    known = sorted(speakers)
    if len(known) < 2:
        raise DataError(
            f"data.name = {name!r}: all recordings are by {known[0]}; two speakers are needed, one "
            "to train and one to test with"
        )
    testing = set(chosen.split("+")) if chosen else set(known[4::5] or known[-1:])
    _require_some(name, "test_speakers", testing, speakers)
    return testing


def _require_some(name: str, option: str, chosen: set[str], speakers: set[str]) -> None:
    if not chosen < speakers:
        raise DataError(
            f"data.name = {name!r}: {option} = {'+'.join(sorted(chosen))} must be some, not all, "
            f"of the speakers, joined by +: {', '.join(sorted(speakers))}"
        )


def _turn(recording: _Recording) -> tuple[Any, ...]:
    number = int(recording.number) if recording.number.isdecimal() else -1
    return number, recording.number, recording.speaker, recording.label


def _check(name: str, options: dict[str, Any]) -> None:
    positive = ("frames", "mels", "hop", "window", "rate", "range")
    require(name, options, at_least(options, dict.fromkeys(positive, 1)))
    highest = {"window": _MOST_WINDOW, "rate": wav.RATES[1], "range": _MOST_RANGE}
    require(
        name, options, {key: (options[key] <= high, f"≤ {high}") for key, high in highest.items()}
    )
    if options["window"] < options["hop"]:
        raise DataError(
            f"data.name = {name!r}: window = {options['window']} ms must be at least hop = "
            f"{options['hop']} ms, or some samples are in no frame"
        )
    if options["rate"] * options["hop"] < 1000:
        raise DataError(f"data.name = {name!r}: hop must be a sample or more; raise hop or rate")
    if not 0 <= options["low"] < options["rate"] / 2:
        raise DataError(
            f"data.name = {name!r}: low = {options['low']} Hz must be in 0 … rate / 2 = "
            f"{options['rate'] / 2:g}"
        )


def _check_memory(
    name: str, recording: _Recording, options: dict[str, Any], recordings: int
) -> None:
    """For what the images so far, a recording and its spectrogram, and the bands take."""
    rate, hop, mels = float(options["rate"]), options["hop"], options["mels"]
    length = len(recording.samples) * max(1.0, rate / recording.rate)
    bins = 4 * rate * options["window"] / 1000  # at most, after padding to a power of two
    frames = 2 + length / max(1, rate * hop // 1000)
    limits.require(
        f"{recording.where}, brought to {rate:g} samples a second,",
        24 * length,
        f"Lower rate in data.name = {name!r}, or remove it",
    )
    needed = 48 * frames * bins + 24.0 * mels * (bins + frames)
    needed += 2.0 * recordings * options["frames"] * mels
    require_memory(name, needed, "frames, mels, window or rate, or raise hop")
