"""Words of languages: what is drawn from word lists, and how it is divided."""

import gzip
import itertools
import os
import pathlib
import random
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax import data
from lconv_jax.data.sources import onehot, words

SMALL = "words:examples=60,test=20,longest=8,margin=1"


def make_lists(folder: pathlib.Path, **lists: list[str]) -> pathlib.Path:
    for language, entries in lists.items():
        (folder / language).write_text("\n".join(entries) + "\n", encoding="utf-8")
    return folder


def random_words(letters: str, count: int, seed: int, low: int = 4, high: int = 8) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(letters, k=rng.randint(low, high))) for _ in range(count)]


@pytest.fixture
def folder(tmp_path):
    return make_lists(
        tmp_path, alpine=random_words("abcdefg", 900, 0), boreal=random_words("efghijk", 700, 1)
    )


def alphabet_of(folder: pathlib.Path, diacritics: bool = True) -> str:
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    return words._alphabet([words._folded(path, diacritics) for path in paths])


def decoded(split: data.Split, alphabet: str) -> list[str]:
    return onehot.decode(split.images, alphabet)


def test_each_word_is_of_its_language_alone(folder):
    loaded = data.load(SMALL, folder)
    assert (loaded.num_classes, loaded.image_shape) == (2, (10, 11))
    assert loaded.train.images.dtype == np.float32
    assert loaded.train.labels.dtype == np.int32
    lists = [set((folder / name).read_text().split()) for name in ("alpine", "boreal")]
    seen = []
    for split, count in ((loaded.train, 60), (loaded.test, 20)):
        assert np.bincount(split.labels).tolist() == [count // 2] * 2
        found = decoded(split, alphabet_of(folder))
        for word, label in zip(found, split.labels, strict=True):
            assert word in lists[label]
            assert word not in lists[1 - label]
        seen += found
    assert len(set(seen)) == 80


def test_a_letter_stands_at_its_place(folder):
    loaded = data.load(SMALL, folder)
    signal = loaded.train.images[0]
    (word,) = onehot.decode(signal[None], "abcdefghijk")
    expected = np.zeros((10, 11))
    for place, letter in enumerate(word):
        expected[1 + place, "abcdefghijk".index(letter)] = 1
    np.testing.assert_array_equal(signal, expected)


@pytest.mark.parametrize("stem", [1, 3, 5])
def test_no_stem_is_on_both_sides(folder, stem):
    name = f"words:examples=40,test=10,longest=8,stem={stem},seed=2"
    loaded = data.load(name, folder)
    train, test = (
        {word[:stem] for word in decoded(split, alphabet_of(folder))}
        for split in (loaded.train, loaded.test)
    )
    assert not train & test


def test_one_seed_gives_the_same_bytes_and_another_others(folder):
    digests = [data.digest(data.load(f"{SMALL},seed={seed}", folder)) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_shared_words_marks_and_duplicates(tmp_path):
    """é and e make two words with diacritics, and without them one that both lists have."""
    base = ["".join(word) for word in itertools.product("abct", repeat=4)]
    marked = [word.replace("a", "é") for word in base]
    plain = [word.replace("a", "e") for word in base]
    make_lists(tmp_path, one=marked * 2, two=plain + [word.upper() for word in plain])
    only_marked = sum("é" in word for word in marked)
    name = "words:examples=40,test=10,stem=4"
    loaded = data.load(name, tmp_path)
    for split in (loaded.train, loaded.test):
        has_mark = split.images[:, :, -1].any(1)  # é is the last letter
        np.testing.assert_array_equal(has_mark, split.labels == 0)
    assert only_marked > 100
    # Words without a or e are in both lists anyway; without marks so are all others.
    with pytest.raises(data.DataError, match=r"one: has 0 words for training that no other list"):
        data.load(f"{name},diacritics=0", tmp_path)


def test_marks_that_are_no_combining_characters():
    assert words._fold("Łódź Straße ŒUVRE\r\nÉté", False) == "lodz strasse oeuvre\nete"
    assert words._fold("E\u0301te\u0301 Łódź", True) == "été łódź"


def test_only_letters_and_lengths(tmp_path):
    good = random_words(string.ascii_lowercase, 300, 0, 5, 6)
    bad = ["it's", "vis-à-vis", "two words", "abc", "abcdefghij", "x2y3z", "über", ""]
    make_lists(tmp_path, one=bad + good[:150], two=good[150:] + bad)
    loaded = data.load("words:examples=80,test=20,shortest=5,longest=6", tmp_path)
    alphabet = alphabet_of(tmp_path)
    found = decoded(loaded.train, alphabet) + decoded(loaded.test, alphabet)
    assert set(found) <= set(good)


def test_latin_1_is_read_like_utf_8(tmp_path):
    entries = {"one": random_words("abcdé", 300, 0), "two": random_words("vwxyzü", 300, 1)}
    for encoding in ("utf-8", "latin-1"):
        (tmp_path / encoding).mkdir()
        for language, own in entries.items():
            (tmp_path / encoding / f"{language}.txt").write_text("\n".join(own), encoding=encoding)
    utf_8, latin_1 = (data.load(SMALL, tmp_path / name) for name in ("utf-8", "latin-1"))
    assert data.digest(utf_8) == data.digest(latin_1)


def in_another_form(form: str, entries: list[str]) -> bytes:
    rng = random.Random(0)
    lines = {
        "blank at the end": [f"{word}  " for word in entries],
        "CRLF": [f"{word}\r" for word in entries],
        "tab and count": [f"{word}\t{rng.randint(1, 10**6)}" for word in entries],
        "count behind": [f"{word} {rng.randint(1, 10**6)}" for word in entries],
        "count before": [f"{rng.randint(1, 999):7d} {word}" for word in entries],
        "comma and count": [f"{word},{rng.randint(1, 10**6)}" for word in entries],
        "semicolon and more": [f"{word} ; {rng.randint(1, 99)}; noun" for word in entries],
        "flags": [f"{word}/{rng.choice(['S', 'GDRS', '12,4'])}" for word in entries],
        "flags and morphology": [f"{word}/S\tpo:noun is:{word}" for word in entries],
    }.get(form, entries)
    text = ("\r" if form == "CR" else "\n").join(lines)
    encoded = text.encode(form if form.startswith("utf") else "utf-8")
    return gzip.compress(encoded, mtime=0) if form == "gzip" else encoded


@pytest.mark.parametrize(
    "form",
    [
        *("blank at the end", "CRLF", "CR", "tab and count", "count behind", "count before"),
        *("comma and count", "semicolon and more"),
        *("flags", "flags and morphology", "gzip", "utf-8-sig", "utf-16", "utf-32"),
    ],
)
def test_lists_of_other_forms_are_read_like_one_word_a_line(tmp_path, form):
    lists = {
        "alpine": random_words("abcdéf", 300, 0),
        "boreal": random_words("uvwxyzü", 300, 1),
    }
    for folder in ("plain", "other"):
        (tmp_path / folder).mkdir()
        for language, entries in lists.items():
            suffix = ".txt.gz" if (folder, form) == ("other", "gzip") else ".txt"
            content = in_another_form(form if folder == "other" else "plain", entries)
            (tmp_path / folder / f"{language}{suffix}").write_bytes(content)
    plain, other = (data.load(SMALL, tmp_path / folder) for folder in ("plain", "other"))
    assert data.digest(plain) == data.digest(other)


def test_blanks_without_end_take_no_time():
    text = "a" + " " * 10**6 + "b\n" + "/" * 10**6 + "b"
    assert words._fold(text, True).count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("word\n".encode("utf-16-le"), "alpine: has zero bytes.*UTF-16.*Save it as UTF-8"),
        (b"PK\x03\x04" + bytes(20), "alpine: is a ZIP archive"),
        (b"BZh91AY", "alpine: is compressed by bzip2. Unpack it"),
        (gzip.compress(b"word\n", mtime=0)[:-9], "alpine: truncated or damaged gzip"),
        (b"\xff\xfea", "alpine: is not the text it begins as"),
        (b"", "alpine: has no letter"),
        (b"1\n2\n", "alpine: has no letter"),
        (
            b"to be or not\n" * 99,
            r"alpine: has 0 words .*0 of its 99 lines.*others as 'to be or not",
        ),
    ],
)
def test_what_is_no_list_of_words_says_what_was_seen(folder, content, message):
    (folder / "alpine").write_bytes(content)
    with pytest.raises(data.DataError, match=message):
        data.load(SMALL, folder)


def test_a_fifo_in_the_folder_is_not_waited_for(folder):
    os.mkfifo(folder / "coastal")
    with pytest.raises(data.DataError, match="coastal: is no regular file"):
        data.load("words:examples=60,test=30,longest=8", folder)


def test_blocks_do_not_cut_words(folder, monkeypatch):
    whole = data.digest(data.load(SMALL, folder))
    monkeypatch.setattr(words, "_BLOCK", 50)
    assert data.digest(data.load(SMALL, folder)) == whole


def test_another_script(tmp_path):
    make_lists(
        tmp_path, greek=random_words("αβγδεζ", 300, 0), russian=random_words("абвгде", 300, 1)
    )
    loaded = data.load(SMALL, tmp_path)
    assert loaded.image_shape == (10, 12)
    assert words.unigram_baseline(loaded) == 1


def test_languages_are_chosen_and_in_alphabetical_order(folder):
    make_lists(folder, coastal=random_words("lmnopq", 700, 2))
    loaded = data.load(f"{SMALL},languages=coastal+alpine", folder)
    assert loaded.num_classes == 2
    assert set("".join(decoded(loaded.test, "abcdefglmnopq"))) <= set("abcdefglmnopq")
    coastal = loaded.train.images[loaded.train.labels == 1]
    assert coastal[..., :7].sum() == 0
    assert words.languages(folder) == ["alpine", "boreal", "coastal"]


def test_order_that_counts_do_not_show_is_not_in_the_baseline(tmp_path):
    """Words of "ab" and of "ba" have the same letters, as often."""
    rng = random.Random(0)
    others = random_words("cdefghijkl", 2000, 1, 4, 4)
    one = [f"{word[:k]}ab{word[k:]}" for word in others if (k := rng.randint(0, 4)) >= 0]
    two = [word.replace("ab", "ba") for word in one]
    make_lists(tmp_path, one=one, two=two)
    loaded = data.load("words:examples=1000,test=400", tmp_path)
    assert abs(words.unigram_baseline(loaded) - 0.5) < 0.1


@given(st.text("abcdefgh", min_size=5, max_size=9), st.text("abcdefgh"), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_the_side_is_that_of_the_stem(word, ending, seed):
    assert words.stem_side(word, 5, seed) == words.stem_side(word[:5] + ending, 5, seed)
    assert 0 <= words.stem_side(word, 5, seed) < 1


def test_sides_are_evenly_distributed():
    sides = [words.stem_side(word, 5, 3) for word in random_words("abcdefgh", 4000, 0, 5, 5)]
    assert abs(np.mean(sides) - 0.5) < 0.03
    assert abs(np.var(sides) - 1 / 12) < 0.01


@given(st.lists(st.text("xyz", max_size=6), min_size=1), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_one_hot_and_back(sequences, start):
    signals = onehot.encode(sequences, "xyz", 9, start)
    assert onehot.decode(signals, "xyz") == sequences
    assert signals.sum() == sum(map(len, sequences))
    assert not signals[:, :start].any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("words:examples=61", "examples = 61 must be a positive multiple of the 2 languages"),
        ("words:test=0", "test = 0 must be a positive multiple"),
        ("words:shortest=9,longest=8", "longest = 8 must be ≥ 9"),
        ("words:margin=-1", "margin = -1 must be ≥ 0"),
        ("words:stem=0", "stem = 0 must be ≥ 1"),
        ("words:diacritics=2", "diacritics = 2 must be 0 or 1"),
        ("words:languages=alpine", "two languages are needed"),
        ("words:languages=alpine+martian", "no list of martian.*lists of alpine, boreal"),
        ("words:examples=4000", "alpine: has .* words for training.*longer list"),
        ("words:colour=1", "not an option of words"),
        ("words:margin=1000000000", "would take .* GiB .*Lower longest, margin"),
        ("words:longest=5000000000", "would take .* GiB"),
        ("words:examples=2000000000000", "would take .* GiB"),
    ],
)
def test_refusals(folder, name, message):
    with pytest.raises(data.DataError, match=message):
        data.load(name, folder)


def test_missing_lists_name_the_packages_and_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(words, "DEBIAN_DIR", tmp_path)
    for folder in (None, tmp_path, tmp_path / "none"):
        with pytest.raises(data.DataError, match=r"wamerican wfrench .* wpolish.*data_dir"):
            data.load("words", folder)


def test_debians_names(tmp_path, monkeypatch):
    monkeypatch.setattr(words, "DEBIAN_DIR", tmp_path)
    make_lists(
        tmp_path,
        **{"british-english": random_words("abcdefg", 900, 0)},
        ngerman=random_words("efghijk", 700, 1),
        words=["nonsense"],
    )
    assert words.languages() == ["english", "german"]
    assert data.load(SMALL).num_classes == 2


def test_two_lists_of_one_language(folder):
    (folder / "alpine.txt").write_text("word\n")
    with pytest.raises(data.DataError, match=r"alpine\.txt: a second list of alpine"):
        data.load(SMALL, folder)
