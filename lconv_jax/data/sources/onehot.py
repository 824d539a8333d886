"""Sequences of symbols as one-hot signals, and what the symbols' counts alone can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lconv_jax.data import dataset as dataset_lib

if TYPE_CHECKING:
    from lconv_jax.data.dataset import Dataset, Source


def encode(sequences: list[str], alphabet: str, length: int, start: int = 0) -> NDArray[np.float32]:
    """One-hot signals float32 [N, length, len(alphabet)]: 1 where the symbol stands, else 0.

    float32, not uint8: `normalize` would bring uint8 0 and 255 to −2 and 2, so that every absent
    symbol would speak as loud as a present one. Here an absent symbol is silent, and so are a
    symbol that is not in the alphabet and a place without one: a weight moves only with the
    examples that have its symbol at its place.

    Args:
      sequences: N strings of at most length − start symbols.
      alphabet: the symbols, each once, in the order of the channels.
      length: of the line.
      start: place of the first symbol.
    """
    codes = np.zeros((len(sequences), length), "<u4")
    for row, sequence in zip(codes, sequences, strict=True):
        row[start : start + len(sequence)] = np.frombuffer(sequence.encode("utf-32-le"), "<u4")
    signals = np.zeros((*codes.shape, len(alphabet)), np.float32)
    for channel, symbol in enumerate(alphabet):
        signals[..., channel] = codes == ord(symbol)
    return signals


def decode(signals: NDArray[np.float32], alphabet: str) -> list[str]:
    """The strings of one-hot signals [N, L, len(alphabet)], places without a symbol left out."""
    places = signals.argmax(-1)
    present = signals.max(-1) > 0.5
    return [
        "".join(alphabet[channel] for channel in row[there])
        for row, there in zip(places, present, strict=True)
    ]


def unigram_baseline(dataset: Dataset | Source) -> float:
    """Test accuracy, 0 … 1, of logistic regression on how often each symbol occurs.

    What a network gains over this it has from the order of the symbols. The counts are those of
    one-hot signals [N, L, C], summed over L; the regression is scikit-learn's, with its default
    L2 penalty.
    """
    import sklearn.linear_model

    train, test = dataset_lib.read_all(dataset.train), dataset_lib.read_all(dataset.test)
    model = sklearn.linear_model.LogisticRegression(max_iter=2000)
    model.fit(train.images.sum(1), train.labels)
    return float(model.score(test.images.sum(1), test.labels))
