"""DNA: FASTA files, TFDS's genomics_ood, and planted motifs."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax import data
from lconv_jax.data.sources import dna, dna_motifs, onehot

SMALL = "length=40,examples=400,test=100"


def write(folder, train, test):
    for split, records in (("train", train), ("test", test)):
        text = "".join(f">{header}\n{body}\n" for header, body in records)
        (folder / f"{split}.fasta").write_text(text)
    return folder


TRAIN = [("a label=x", "ACGT"), ("b label=y", "TTTT"), ("c label=x", "GGCC")]


def test_fasta(tmp_path):
    test = [("d|label=y", "ac\ngu"), ("label=x", "NA-C")]
    loaded = data.load("dna", write(tmp_path, TRAIN, test))
    assert (loaded.num_classes, loaded.image_shape) == (2, (4, 4))
    assert loaded.train.images.dtype == np.float32
    np.testing.assert_array_equal(loaded.train.images[0], np.eye(4))
    assert onehot.decode(loaded.train.images, "ACGT") == ["ACGT", "TTTT", "GGCC"]
    assert onehot.decode(loaded.test.images, "ACGT") == ["ACGT", "AC"]
    assert (loaded.train.labels.tolist(), loaded.test.labels.tolist()) == ([0, 1, 0], [1, 0])


def test_an_unknown_base_and_a_place_without_one(tmp_path):
    folder = write(tmp_path, TRAIN, [("d label=y", "NA")])
    signal = data.load("dna:length=4,unknown=0.25", folder).test.images[0]
    np.testing.assert_array_equal(signal, [[0] * 4, [0.25] * 4, [1, 0, 0, 0], [0] * 4])
    signal = data.load("dna:length=4", folder).test.images[0]
    assert signal.sum() == 1


@given(st.text("ACGTN", min_size=1, max_size=12), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_the_middle_is_kept_in_the_middle(sequence, length):
    (signal,) = dna._signals([sequence], length, 0.0)
    if len(sequence) >= length:
        start = (len(sequence) - length) // 2
        expected = sequence[start : start + length]
    else:
        before = (length - len(sequence)) // 2
        expected = ("N" * before + sequence).ljust(length, "N")
    found = "".join("ACGT"[row.argmax()] if row.any() else "N" for row in signal)
    assert found == expected


def test_numbers_are_ordered_as_numbers(tmp_path):
    train = [(f"r label={label}", "ACGT") for label in (10, 9, 2)]
    assert data.load("dna", write(tmp_path, train, train)).train.labels.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (TRAIN, [("d", "ACGT")], r"test\.fasta: the record '>d' lacks label=CLASS"),
        (TRAIN, [("d label=x", "")], r"test\.fasta: the record '>d label=x' lacks a sequence"),
        (TRAIN, [("d label=z", "ACGT")], r"test\.fasta: label 'z' has no sequence in train"),
        (TRAIN, [("d label=x", "ACG")], r"test\.fasta: sequence 0 has 3 .* 4\. .*dna:length=4"),
        (TRAIN[:1], TRAIN[:1], r"train\.fasta: every label is x"),
        ([], TRAIN, r"train\.fasta: not a FASTA file"),
        (
            [("p label=x", "MEEPQSDPSVEPPLSQETFS")],
            TRAIN,
            r"60% of its letters \(EFLPQ\) .*proteins",
        ),
    ],
)
def test_refusals_of_files(tmp_path, train, test, message):
    with pytest.raises(data.DataError, match=message):
        data.load("dna", write(tmp_path, train, test))


def test_a_byte_order_mark_is_no_letter(tmp_path):
    write(tmp_path, TRAIN, TRAIN)
    file = tmp_path / "train.fasta"
    file.write_text(file.read_text(), encoding="utf-8-sig")
    loaded = data.load("dna", tmp_path)
    np.testing.assert_array_equal(loaded.train.images, loaded.test.images)


@pytest.mark.parametrize("name", ["train.fna", "Train.FASTA", "train.fa.gz", "train.fasta.gz"])
def test_files_as_people_have_them(tmp_path, name):
    expected = data.digest(data.load("dna", write(tmp_path, TRAIN, TRAIN)))
    file = tmp_path / "train.fasta"
    content = file.read_bytes().replace(b"\n", b"\r\n")
    file.unlink()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert data.digest(data.load("dna", tmp_path)) == expected


def test_a_length_that_no_memory_takes(tmp_path):
    with pytest.raises(data.DataError, match=r"would take .* GiB .*Lower length"):
        data.load("dna:length=999999999999", write(tmp_path, TRAIN, TRAIN))


def test_labels_that_are_no_numbers_python_reads(tmp_path):
    train = [("a label=" + "1" * 5000, "ACGT"), ("b label=2", "ACGT")]
    assert data.load("dna", write(tmp_path, train, train)).num_classes == 2


@pytest.mark.parametrize("unknown", ["nan", "inf", "-0.1", "1.5"])
def test_an_unknown_base_s_value_is_checked(tmp_path, unknown):
    with pytest.raises(data.DataError, match=r"unknown = .* must be in 0 … 1"):
        data.load(f"dna:unknown={unknown}", write(tmp_path, TRAIN, TRAIN))


def test_missing_files(tmp_path):
    with pytest.raises(data.DataError, match=r"data_dir is empty.*train\.fasta.*label=1"):
        data.load("dna")
    with pytest.raises(data.DataError, match=r"train\.fasta: no such file.*label=1"):
        data.load("dna", tmp_path)


def make_genomics(folder, count=30):
    tfds = pytest.importorskip("tensorflow_datasets")
    rng = np.random.default_rng(0)
    examples = {
        f"{split}{number}": {
            "seq": "".join(rng.choice(list("ACGT"), 25)),
            "label": number % 10,
            "seq_info": "",
            "domain": "in",
        }
        for split in ("train", "test")
        for number in range(count)
    }

    class GenomicsOod(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("0.0.1")

        def _info(self):
            text = tfds.features.Text()
            features = {
                **dict.fromkeys(("seq", "seq_info", "domain"), text),
                "label": tfds.features.ClassLabel(num_classes=130),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in ("train", "test")}

        def _generate_examples(self, split):
            yield from (item for item in examples.items() if item[0].startswith(split))

    GenomicsOod(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return examples


@pytest.mark.slow
def test_genomics_ood_as_tfds_writes_it(tmp_path):
    examples = make_genomics(tmp_path)
    loaded = data.load("genomics_ood:examples=30,test=20", tmp_path)
    assert (loaded.num_classes, loaded.train.images.shape) == (10, (30, 25, 4))
    written = {(e["seq"], e["label"]) for name, e in examples.items() if name.startswith("train")}
    assert (
        set(
            zip(
                onehot.decode(loaded.train.images, "ACGT"),
                loaded.train.labels.tolist(),
                strict=True,
            )
        )
        == written
    )
    assert len(loaded.test.labels) == 20
    with pytest.raises(data.DataError, match=r"test = 31 must be in 1 … 30"):
        data.load("genomics_ood:examples=30,test=31", tmp_path)


def test_genomics_ood_that_is_not_prepared(tmp_path):
    with pytest.raises(data.DataError, match="not prepared") as error:
        data.load("genomics_ood", tmp_path)
    assert "lconv_jax.data.prepare genomics_ood" in str(error.value)


def test_planted_motifs_are_where_they_are_said_to_be():
    name = f"dna_motifs:{SMALL},conserved=1.0,jitter=3,apart=5,classes=3,motif=7,examples=399"
    name = name.replace("examples=400,", "")
    source, truth = dna_motifs.read(name), dna_motifs.planted(name)
    for split, starts in ((source.train, truth.train_starts), (source.test, truth.test_starts)):
        for image, label, start in zip(*split, starts, strict=True):
            np.testing.assert_array_equal(image[start : start + 7], truth.matrices[label])
            first, count = truth.allowed[label]
            assert first <= start < first + count == first + 7
    assert np.diff(truth.allowed[:, 0]).tolist() == [5, 5]
    assert set(truth.train_starts - truth.allowed[source.train.labels, 0]) == set(range(7))


def test_starts_anywhere_reach_both_ends():
    truth = dna_motifs.planted("dna_motifs:length=12,motif=8,jitter=-1")
    assert np.bincount(truth.train_starts).min() > 8000 / 5 * 0.9
    assert len(np.bincount(truth.train_starts)) == 5


def test_bases_are_drawn_from_the_matrices():
    name = "dna_motifs:conserved=0.7,examples=20000,classes=2"
    source, truth = dna_motifs.read(name), dna_motifs.planted(name)
    images, labels = source.train
    windows = truth.train_starts[:, None] + np.arange(8)
    motifs = np.take_along_axis(images, windows[..., None], axis=1)
    for label, matrix in enumerate(truth.matrices):
        np.testing.assert_allclose(matrix.sum(1), 1)
        assert np.abs(motifs[labels == label].mean(0) - matrix).max() < 0.02
    background = images.copy()
    np.put_along_axis(background, windows[..., None], 0, axis=1)
    assert np.abs(background.sum((0, 1)) / background.sum() - 0.25).max() < 0.005


@pytest.mark.parametrize("motif", [4, 8, 10])
def test_counting_bases_tells_nothing(motif):
    name = f"dna_motifs:motif={motif},jitter=-1"
    counts = dna_motifs.planted(name).matrices.sum(1)
    np.testing.assert_allclose(counts, counts[:1].repeat(4, 0))
    assert abs(dna.unigram_baseline(data.load(name)) - 0.25) < 0.04


def test_the_best_classifier():
    """It is certain where there is one start and no chance, and guesses where motifs are flat."""
    assert dna_motifs.bayes_accuracy("dna_motifs:conserved=1.0,jitter=0,motif=12") == 1
    assert abs(dna_motifs.bayes_accuracy("dna_motifs:conserved=0.2501") - 0.25) < 0.05
    harder = [dna_motifs.bayes_accuracy(f"dna_motifs:jitter={jitter}") for jitter in (0, 8, -1)]
    assert harder == sorted(harder, reverse=True)


def test_seeds_and_independent_splits():
    load = dna_motifs.read
    one, again, other = (load(f"dna_motifs:{SMALL},seed={seed}").train.images for seed in (3, 3, 4))
    assert one.tobytes() == again.tobytes() != other.tobytes()
    source = load("dna_motifs:length=40,examples=100,test=100")
    agreement = (source.train.images * source.test.images).sum(-1).mean()
    assert abs(agreement - 0.25) < 0.05
    # More examples change neither the motifs nor the test set.
    more = load("dna_motifs:length=40,examples=200,test=100")
    assert more.test.images.tobytes() == source.test.images.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("length=7", "length = 7 must be ≥ 8"),
        ("classes=1", "classes = 1 must be ≥ 2"),
        ("examples=3", "examples = 3 must be ≥ 4"),
        ("conserved=0.25", "conserved = 0.25 must be above 0.25"),
        ("jitter=-1,apart=8", "apart = 8 must be 0 with jitter=-1"),
        ("jitter=29", "would lie outside of 64 bases"),
        ("jitter=4,apart=20", "would lie outside"),
        ("motif=1", "not 4 different motifs of 1 bases"),
        ("colour=1", "not an option of dna_motifs"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(data.DataError, match=message):
        data.load(f"dna_motifs:{options}")
