"""Which language is this word from: letters one-hot along a line, from lists of words.

    words                                     all options at their defaults
    words:diacritics=0,examples=8000,seed=3   others

A word list is a text file with one word a line, and a class: UTF-8, UTF-16 or 32 with a byte order
mark, or else Latin-1; compressed by gzip or not. What is no part of the word is left out: blanks at
the ends, a count before or behind the word, what follows a tab, comma or semicolon, and the flags
of spelling checkers (`word/FLAGS`).

Without `data_dir` the lists are Debian's, in /usr/share/dict: packages wamerican (or wbritish),
wfrench, wngerman, witalian, wspanish, wportuguese, wdutch and wpolish, those that are there. With
it they are all files of that folder but hidden ones and README*, and a file's name without suffix
is its language. Each of Debian's lists has a licence of its own (/usr/share/doc/PACKAGE/copyright);
nothing of them is in this package. Fewer than two lists raise a DataError that names these
packages.

Words are lower-cased, and only those of letters alone are used, of a length in
shortest … longest. A word that two of the languages have is left out, and so is one with a letter
that makes up less than 1/2000 of every language's text. What is left is sampled, evenly over each
list, the same number for each language.

Training and test words have no stem in common, where a word's stem is its first `stem` letters, or
all of it if it is shorter: most inflected forms of a word, and cognates, lie on one side. Not
recognised are stems that change within these letters (German umlauts, prefixes), and inflected
forms of words that are shorter than a stem: by default three of the 4000 test words have one in
the training set (yule, yules). `stem` = `shortest` has none of these.

Signals are float32 [N, longest + 2 · margin, letters], 1 where a letter stands and 0 elsewhere
(why not uint8: see `onehot.encode`). A word begins at place `margin`; a shift by `data.crop` ≤
margin loses nothing of it. The channels are the letters in order of their code point, the labels
the languages in alphabetical order.

Options (and defaults):
  examples (20000), test (4000): training and test words in all, multiples of the languages.
  shortest (4), longest (12), margin (2): in letters.
  stem (5): letters of a stem.
  diacritics (1): 0 takes marks off letters (é → e, ł → l, ß → ss), as they alone may give the
    language away. Words that then coincide count as one.
  languages (""): those used, joined by +, as in english+french; empty: all there are.
  seed (0): decides which words are drawn and which stems are for testing.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterator
from typing import AnyStr

import numpy as np
from numpy.typing import NDArray

from lconv_jax.data import dataset, files
from lconv_jax.data.options import at_least, parse, require, require_memory
from lconv_jax.data.sources import onehot
from lconv_jax.data.sources.onehot import unigram_baseline
from lconv_jax.errors import DataError

__all__ = ["DEFAULTS", "read", "stem_side", "unigram_baseline"]

DEBIAN_DIR = pathlib.Path("/usr/share/dict")
# The first file of each that is there.
_DEBIAN_LISTS = {
    "dutch": ("dutch",),
    "english": ("american-english", "british-english", "english"),
    "french": ("french",),
    "german": ("ngerman", "german"),
    "italian": ("italian",),
    "polish": ("polish",),
    "portuguese": ("portuguese",),
    "spanish": ("spanish",),
}
_REMEDY = (
    "Install word lists (Debian: apt install wamerican wfrench wngerman witalian wspanish "
    "wportuguese wdutch wpolish), or give as data.data_dir a folder of text files, one a language, "
    "with one word a line, named by the language"
)
DEFAULTS = {
    "examples": 20_000,
    "test": 4_000,
    "shortest": 4,
    "longest": 12,
    "margin": 2,
    "stem": 5,
    "diacritics": 1,
    "languages": "",
    "seed": 0,
}
_RAREST = 1 / 2000
# What stands beside a word: blanks and a count before it; after it a spelling checker's flags, a
# count, or anything after a tab, comma or semicolon; and blanks.
_BESIDE = re.compile(
    r"^[ \t]+(?:\d+[ \t]+)?|^\d+[ \t]+"
    r"|(?<![ \t])(?=[/ \t,;])(?:/[^\s/,;]*)?(?: *[\t,;].*| +[\d.,]+)?[ \t]*$",
    re.MULTILINE,
)
_BLOCK = 1 << 22  # bytes of a list that are looked at together
# Letters whose marks are no combining characters.
_PLAIN = {"ß": "ss", "æ": "ae", "œ": "oe", "ł": "l", "ø": "o", "đ": "d", "ð": "d", "þ": "th"}


def read(name: str, data_dir: str | os.PathLike[str] | None) -> dataset.Source:
    """The words of the lists that are there, as this module's docstring says.

    Args:
      name: "words", with options behind it.
      data_dir: a folder of word lists; None: Debian's.

    Raises:
      DataError: fewer than two lists, a list that has too few words, or an option out of range.
    """
    options = parse(name, DEFAULTS)
    lists = _files(data_dir, options["languages"])
    _check(name, options, len(lists))
    texts = [_folded(path, bool(options["diacritics"])) for path in lists.values()]
    alphabet = _alphabet(texts)
    for path, text in zip(lists.values(), texts, strict=True):
        if not any(map(str.isalpha, itertools.chain.from_iterable(_decoded(text)))):
            raise DataError(f"{path}: has no letter. {_REMEDY}")
    _check_memory(name, options, len(alphabet))
    train, test = _choose(name, options, lists, texts, alphabet)
    place = f"words ({', '.join(str(path) for path in lists.values())})"
    return dataset.Source(
        name="words",
        num_classes=len(lists),
        train=_split(train, alphabet, options),
        test=_split(test, alphabet, options),
        train_file=place,
        test_file=place,
        class_names=tuple(lists),
    )


def stem_side(word: str, stem: int, seed: int) -> float:
    """A number in [0, 1) that the first `stem` letters and the seed decide, evenly distributed."""
    key = f"{seed}:{word[:stem]}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "big") / 2**32


def languages(data_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """Names of the languages there are lists of, in the order of the labels."""
    return list(_files(data_dir, ""))


def _files(data_dir: str | os.PathLike[str] | None, chosen: str) -> dict[str, pathlib.Path]:
    """Language → list, in alphabetical order."""
    folder = DEBIAN_DIR if data_dir is None else files.place(data_dir)
    found: dict[str, pathlib.Path] = {}
    if folder.resolve() == DEBIAN_DIR:
        for language, names in _DEBIAN_LISTS.items():
            paths = [folder / name for name in names if (folder / name).is_file()]
            found |= dict.fromkeys([language], paths[0]) if paths else {}
    else:
        if not folder.is_dir():
            raise DataError(f"words: data.data_dir = {folder}: no such folder. {_REMEDY}")
        for path in files.listed(folder, _REMEDY):
            if not path.is_dir() and not path.name.startswith((".", "README")):
                language = _language(path)
                if language in found:
                    raise DataError(
                        f"{path}: a second list of {language}, beside {found[language].name}. "
                        "A file's name without suffix is its language: join the two, or rename one"
                    )
                found[language] = path
    wanted = chosen.split("+") if chosen else sorted(found)
    missing = [language for language in wanted if language not in found]
    if missing or len(set(wanted)) < 2:
        problem = f"no list of {', '.join(missing)}" if missing else "two languages are needed"
        raise DataError(
            f"words: {problem}; {folder} has lists of {', '.join(sorted(found)) or 'none'}. "
            f"{_REMEDY}"
        )
    return {language: found[language] for language in sorted(set(wanted))}


def _language(path: pathlib.Path) -> str:
    """A file's name without its suffix, and without that of gzip behind it."""
    packed = path.suffix.lower() == ".gz"
    return pathlib.PurePath(path.stem).stem if packed else path.stem


def _check(name: str, options: dict[str, int], languages: int) -> None:
    for key in ("examples", "test"):
        if options[key] < languages or options[key] % languages:
            raise DataError(
                f"data.name = {name!r}: {key} = {options[key]} must be a positive multiple of the "
                f"{languages} languages, as {max(1, options[key] // languages) * languages} is"
            )
    lowest = {"shortest": 1, "longest": options["shortest"], "margin": 0, "stem": 1, "seed": 0}
    accepted = at_least(options, lowest)
    accepted["diacritics"] = (options["diacritics"] in (0, 1), "0 or 1")
    require(name, options, accepted)


def _check_memory(name: str, options: dict[str, int], letters: int) -> None:
    # Of each place its letter's code, and float32 for each letter and for what it is compared to.
    place = 4.0 + 5.0 * max(1, letters)
    length = options["longest"] + 2 * options["margin"]
    needed = (options["examples"] + options["test"]) * length * place
    require_memory(name, needed, "longest, margin, examples or test")


def _folded(path: pathlib.Path, diacritics: bool) -> bytes:
    """The list as UTF-8, lower-cased, with or without marks, one word a line."""
    text = files.read_text(path, "Make it readable or remove it", otherwise="latin-1")
    if "\n" not in text:  # other ends of lines
        for end in "\r\f\v\x85\u2028\u2029":
            text = text.replace(end, "\n")
    return "".join(_fold(block, diacritics) for block in _blocks(text)).encode()


def _blocks(text: AnyStr) -> Iterator[AnyStr]:
    """Some millions of bytes or characters at a time, cut at the ends of lines."""
    start, newline = 0, b"\n" if isinstance(text, bytes) else "\n"
    while start < len(text):
        end = text.find(newline, start + _BLOCK) + 1 or len(text)
        yield text[start:end]
        start = end


def _decoded(text: bytes) -> Iterator[str]:
    return (block.decode() for block in _blocks(text))


def _fold(text: str, diacritics: bool) -> str:
    text = text.lower().replace("\r", "").replace("\ufeff", "")
    # Seldom anything, and slow to look for.
    if any(sign in text for sign in " \t/,;"):
        text = _BESIDE.sub("", text)
    if diacritics:
        return unicodedata.normalize("NFC", text)
    text = re.sub("[\u0300-\u036f]+", "", unicodedata.normalize("NFD", text))
    for letter, plain in _PLAIN.items():
        text = text.replace(letter, plain)
    return text


def _alphabet(texts: list[bytes]) -> str:
    """The letters of the languages, in order of code point.

    They are counted over whole lists, so that the sample does not decide how many channels there
    are.
    """
    letters: set[str] = set()
    for text in texts:
        counts = np.zeros(0x110000, np.int64)
        for block in _decoded(text):
            codes = np.frombuffer(block.encode("utf-32-le"), "<u4")
            found = np.bincount(codes)
            counts[: len(found)] += found
        present = [(chr(code), counts[code]) for code in np.flatnonzero(counts)]
        present = [(letter, count) for letter, count in present if letter.isalpha()]
        total = sum(count for _, count in present)
        letters |= {letter for letter, count in present if count >= _RAREST * total}
    return "".join(sorted(letters))


_Rows = list[tuple[str, int]]


def _choose(
    name: str,
    options: dict[str, int],
    lists: dict[str, pathlib.Path],
    texts: list[bytes],
    alphabet: str,
) -> tuple[_Rows, _Rows]:
    """Training and test words with their labels, label by label in turn."""
    pattern = re.compile(f"[{re.escape(alphabet)}]{{{options['shortest']},{options['longest']}}}")
    wanted = {True: options["examples"] // len(lists), False: options["test"] // len(lists)}
    share = options["test"] / (options["examples"] + options["test"])
    orders = [_order(text, (options["seed"], label)) for label, text in enumerate(texts)]
    # Mostly enough: of the words drawn some are too long, and some shared.
    drawn = [6 * sum(wanted.values())] * len(lists)
    while True:
        words = [
            _drawn(text, order[:count], pattern)
            for text, order, count in zip(texts, orders, drawn, strict=True)
        ]
        shared = _shared(words, texts)
        sides: dict[bool, list[list[str]]] = {True: [], False: []}
        for own in words:
            training = {word: _is_training(word, options, share) for word in own}
            for side, chosen in sides.items():
                kept = [w for w in own if training[w] == side and w not in shared]
                chosen.append(kept[: wanted[side]])
        short = [
            (label, side)
            for side, chosen in sides.items()
            for label, kept in enumerate(chosen)
            if len(kept) < wanted[side]
        ]
        if not short:
            return _in_turn(sides[True]), _in_turn(sides[False])
        for label, side in short:
            if drawn[label] >= len(orders[label]):
                raise DataError(
                    f"{list(lists.values())[label]}: has {len(sides[side][label])} words for "
                    f"{'training' if side else 'testing'} that no other list has, but "
                    f"{wanted[side]} are needed; {_seen(texts[label], pattern)}. Give a longer "
                    f"list, or a smaller {'examples' if side else 'test'} in data.name = {name!r}"
                )
        for label in {label for label, _ in short}:
            drawn[label] *= 2


def _seen(text: bytes, pattern: re.Pattern[str]) -> str:
    """What a list has, for the message that it is too little."""
    lines = text.decode().splitlines()
    others = [line for line in lines if not pattern.fullmatch(line)]
    seen = f"{len(lines) - len(others)} of its {len(lines)} lines are of such length and letters"
    return seen + (f", and others as {others[0][:40]!r}" if others else "")


def _is_training(word: str, options: dict[str, int], share: float) -> bool:
    return stem_side(word, options["stem"], options["seed"]) >= share


def _order(text: bytes, seed: tuple[int, int]) -> NDArray[np.int64]:
    """Starts of the lines in random order, ranked by PCG64's raw output (see NEP 19)."""
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    starts = np.concatenate([[0], ends + 1])
    rank = np.argsort(np.random.PCG64(seed).random_raw(len(starts)), kind="stable")
    return starts[rank]


def _drawn(text: bytes, starts: NDArray[np.int64], pattern: re.Pattern[str]) -> list[str]:
    """The words of the lines that begin there, each once, if they are what is looked for."""
    found: dict[str, None] = {}
    for start in starts.tolist():
        end = text.find(b"\n", start)
        word = text[start : end if end >= 0 else None].decode()
        if pattern.fullmatch(word):
            found[word] = None
    return list(found)


def _shared(words: list[list[str]], texts: list[bytes]) -> set[str]:
    """The words that another list has, drawn from it or not."""
    shared: set[str] = set()
    for label, text in enumerate(texts):
        others = {word for other, own in enumerate(words) if other != label for word in own}
        for block in _decoded(text):
            shared |= others.intersection(block.split("\n"))
    return shared


def _in_turn(lists: list[list[str]]) -> _Rows:
    return [(word, label) for row in zip(*lists, strict=True) for label, word in enumerate(row)]


def _split(rows: _Rows, alphabet: str, options: dict[str, int]) -> dataset.Split:
    length = options["longest"] + 2 * options["margin"]
    signals = onehot.encode([word for word, _ in rows], alphabet, length, options["margin"])
    return dataset.Split(signals, np.array([label for _, label in rows], np.int32))
