"""DNA sequences one-hot along a line, from FASTA files or from TFDS's genomics_ood.

    dna                      data_dir: a folder with train.fasta and test.fasta
    dna:length=200           cut or padded around the middle
    genomics_ood             data_dir: where TFDS prepared genomics_ood; None: its default

The files' suffix may also be fa, fna, fas, ffn or frn, and they may be compressed by gzip. A
record's class stands in its header, after `label=`, and its sequence in the lines that
follow:

    >chr1:100-300 label=promoter
    ACGTTGCAACGTNNGT

The classes are the labels of the training file, in order of number if all are numbers, else
alphabetical. Case does not matter, U is read as T.

`genomics_ood` is TFDS's set of that name (Ren et al., "Likelihood Ratios for Out-of-Distribution
Detection", NeurIPS 2019; Apache 2.0 code, sequences from NCBI): pieces of 250 bases of ten genera
of bacteria, 1 000 000 for training and 100 000 for testing. Of its splits train and test are used,
and the first `examples` and `test` of each, in the order TFDS shuffled them to.

Signals are float32 [N, L, 4], channels A C G T: 1 where the base stands, else 0. Any other letter
(N, R, -, …) is `unknown` in all four channels. (Why not uint8: see `onehot.encode`.)

Options (and defaults) of dna:
  length (0): L; longer sequences are cut and shorter ones padded with 0, evenly at both ends. 0:
    all have one length.
  unknown (0.0): what an unknown base is in each channel; 0.25: as a mean over the four.
Options of genomics_ood: examples (20000), test (5000), unknown (0.0).

A missing file or set raises a DataError that says what is looked for; so does a record without
label or sequence, a file most of whose letters stand for no nucleotide (those of proteins do not),
and a label that training does not have.
"""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lconv_jax.data import dataset, files
from lconv_jax.data.options import at_least, parse, require, require_memory
from lconv_jax.data.sources import onehot, tfds
from lconv_jax.data.sources.onehot import unigram_baseline
from lconv_jax.errors import DataError

__all__ = ["BASES", "DEFAULTS", "GENOMICS_DEFAULTS", "read", "read_fasta", "unigram_baseline"]

BASES = "ACGT"
# Takes away IUPAC's letters, with those for several bases, none, and a gap; U is T by then.
_NUCLEOTIDES = str.maketrans("", "", "ACGTNRYSWKMBDHVX-.")
_SUFFIXES = (".fasta", ".fa", ".fna", ".fas", ".ffn", ".frn")
DEFAULTS = {"length": 0, "unknown": 0.0}
GENOMICS_DEFAULTS = {"examples": 20_000, "test": 5_000, "unknown": 0.0}
# The labels of TFDS's genomics_ood that are not out of distribution come first.
_GENOMICS_CLASSES = 10
_LABEL = re.compile(r"(?:^|[\s|;,])label=([^\s|;,]+)")


def read(name: str, data_dir: str | os.PathLike[str] | None) -> dataset.Source:
    """The sequences as this module's docstring says.

    Args:
      name: "dna" or "genomics_ood", with options behind it.
      data_dir: the folder of the FASTA files, or of TFDS.

    Raises:
      DataError: files are missing or not as described, or an option is out of range.
    """
    if name.partition(":")[0] == "genomics_ood":
        return _read_genomics(name, data_dir)
    options = parse(name, DEFAULTS)
    require(name, options, at_least(options, {"length": 0}) | _accepted(options))
    paths = _files(data_dir)
    (train, train_labels), (test, test_labels) = map(read_fasta, paths)
    classes = dataset.class_names(train_labels)
    if len(classes) < 2:
        raise DataError(f"{paths[0]}: every label is {classes[0]}; two classes are needed")
    strange = set(test_labels) - set(classes)
    if strange:
        raise DataError(
            f"{paths[1]}: label {min(strange)!r} has no sequence in {paths[0].name}. Correct it, "
            "or give training examples of it"
        )
    length = options["length"] or _one_length(paths, train, test)
    _require_memory(name, len(train) + len(test), length, "length")
    splits = [
        dataset.Split(
            _signals(sequences, length, options["unknown"]),
            np.array([classes.index(label) for label in labels], np.int32),
        )
        for sequences, labels in ((train, train_labels), (test, test_labels))
    ]
    source = dataset.Source("dna", len(classes), splits[0], splits[1], str(paths[0]), str(paths[1]))
    return source._replace(class_names=tuple(classes))


def _accepted(options: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    return {"unknown": (0 <= options["unknown"] <= 1, "in 0 … 1")}


def _require_memory(name: str, examples: int, length: int, keys: str) -> None:
    # Of each place a character and its code; float32 [4], and twice what it is compared to.
    require_memory(name, examples * float(length) * (8 + 4 * len(BASES) + 8), keys)


def read_fasta(path: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
    """Sequences, in upper case with T for U, and labels of a FASTA file.

    Raises:
      DataError: the file cannot be read, holds no record, or a record has no label or sequence.
    """
    path = pathlib.Path(path)
    text = files.read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    records = re.split(r"^>", text, flags=re.MULTILINE)
    if records[0].strip() or len(records) < 2:
        raise DataError(
            f"{path}: not a FASTA file; it must begin with '>', but begins with "
            f"{text.lstrip()[:20]!r}"
        )
    sequences, labels = [], []
    for record in records[1:]:
        header, _, body = record.partition("\n")
        sequence = "".join(body.split()).upper().replace("U", "T")
        found = _LABEL.search(header)
        if found is None or not sequence:
            problem = "a sequence" if found else "label=CLASS in its header"
            raise DataError(f"{path}: the record {'>' + header.strip()!r} lacks {problem}. Add it")
        sequences.append(sequence)
        labels.append(found.group(1))
    strange = "".join(sequence.translate(_NUCLEOTIDES) for sequence in sequences)
    share = len(strange) / sum(map(len, sequences))
    if share > 0.1:
        raise DataError(
            f"{path}: {share:.0%} of its letters ({''.join(sorted(set(strange)))[:30]}) stand for "
            "no nucleotide. Give DNA or RNA, no proteins"
        )
    return sequences, labels


def _files(data_dir: str | os.PathLike[str] | None) -> list[pathlib.Path]:
    remedy = (
        "Give as data.data_dir a folder with train.fasta and test.fasta, whose headers carry the "
        "class, as in '>name label=1'"
    )
    if data_dir is None:
        raise DataError(f"dna: data.data_dir is empty. {remedy}")
    folder = files.place(data_dir)
    there = {path.name.lower(): path for path in files.listed(folder, remedy)}
    paths = []
    for split in ("train", "test"):
        names = [f"{split}{suffix}{gz}" for suffix in _SUFFIXES for gz in ("", ".gz")]
        found = [there[name] for name in names if name in there]
        if not found:
            raise DataError(f"{folder / names[0]}: no such file. {remedy}")
        paths.append(found[0])
    return paths


def _one_length(paths: list[pathlib.Path], train: list[str], test: list[str]) -> int:
    length = len(train[0])
    for path, sequences in zip(paths, (train, test), strict=True):
        for number, sequence in enumerate(sequences):
            if len(sequence) != length:
                raise DataError(
                    f"{path}: sequence {number} has {len(sequence)} bases, but the first of "
                    f"{paths[0].name} {length}. Give a length, as in data.name = "
                    f"'dna:length={length}', to cut and pad them"
                )
    return length


def _signals(sequences: list[str], length: int, unknown: float) -> NDArray[np.float32]:
    """[N, length, 4], the middle of each sequence in the middle of its signal."""
    centred = []
    for sequence in sequences:
        surplus = max(0, len(sequence) - length) // 2
        sequence = sequence[surplus : surplus + length]
        spare = length - len(sequence)
        # A blank is a place without a base, not an unknown one.
        centred.append(" " * (spare // 2) + sequence + " " * (spare - spare // 2))
    signals = onehot.encode(centred, BASES, length)
    if unknown:
        blank = onehot.encode(centred, " ", length)
        signals[~signals.any(-1) & ~blank.any(-1)] = unknown
    return signals


def _read_genomics(name: str, data_dir: str | os.PathLike[str] | None) -> dataset.Source:
    options = parse(name, GENOMICS_DEFAULTS)
    require(name, options, _accepted(options))
    builder = tfds.find("genomics_ood", data_dir)
    tfds.check_format(builder, "genomics_ood", data_dir)
    splits, where = [], []
    for split, key in (("train", "examples"), ("test", "test")):
        place = f"{builder.data_dir} ({split})"
        records = tfds.open_split(builder, split)
        good = 0 < options[key] <= len(records)
        require(name, options, {key: (good, f"in 1 … {len(records)}, the examples of {place}")})
        with files.reading(place, tfds.AGAIN):
            (first,) = records.__getitems__([0])
            _require_memory(name, options[key], len(first["seq"]), key)
            rows: list[dict[str, Any]] = records.__getitems__(list(range(options[key])))
            sequences = [row["seq"].decode().upper() for row in rows]
            labels = np.array([row["label"] for row in rows], np.int32)
        for number, sequence in enumerate(sequences):
            if len(sequence) != len(sequences[0]):
                raise DataError(
                    f"{place}: sequence {number} has {len(sequence)} bases, but the first "
                    f"{len(sequences[0])}. {tfds.AGAIN}"
                )
        splits.append(
            dataset.Split(_signals(sequences, len(sequences[0]), options["unknown"]), labels)
        )
        where.append(place)
    return dataset.Source(
        "genomics_ood", _GENOMICS_CLASSES, splits[0], splits[1], where[0], where[1]
    )
