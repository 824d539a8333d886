"""The weights of the networks by layer, beside what the paper prints."""

import math

import pytest

from lconv_jax.experiments import figure1


@pytest.mark.slow
def test_tables_show_the_true_d_local_beside_the_printed_one():
    d, s = (
        figure1.layer_table(figure1.by_layer(family, alpha, (32, 32, 3), 10)).splitlines()
        for family, alpha in figure1.ALPHA_OF.items()
    )
    assert d[0] == "| layer | d_conv | d_local | d_fc | d_local as printed in the paper |"
    assert s[0] == "| layer | s_conv | s_local | s_fc |"
    assert d[-1] == "| all | 1,445,955 | 11,713,920 | 282,203,520 | 3,403,320 |"
    assert s[-1] == "| all | 138,312,450 | 147,607,200 | 256,240,800 |"
    assert "| conv3 | 8,100 | 2,073,600 | 58,982,400 | 518,400 |" in d


@pytest.mark.slow
def test_alpha_side_channels_and_classes_are_arguments():
    d, s = (figure1.layer_table(figure1.by_layer(family, 2, (16, 16, 1), 4)) for family in "ds")
    assert "| conv1 | 18 | 4,608 | 131,072 | 4,608 |" in d
    assert "| fc2 | 192 | 192 | 192 |" in s


@pytest.mark.slow
def test_lines_pass_through_the_tables_sums(monkeypatch):
    monkeypatch.setattr(figure1, "SIDES", (32,))
    monkeypatch.setattr(figure1, "ALPHAS", (15, 150))
    at_side, at_alpha = figure1.against_side(), figure1.against_alpha()
    sums = {
        **{"d_conv": 1_445_955, "d_local": 11_713_920, "d_fc": 282_203_520},
        **{"s_conv": 138_312_450, "s_local": 147_607_200, "s_fc": 256_240_800},
    }
    assert at_side == {name: [count] for name, count in sums.items()}
    assert list(at_alpha) == list(sums)
    for name, (narrow, wide) in at_alpha.items():
        assert sums[name] == (narrow if figure1.MODELS[name][0] == "d" else wide)


@pytest.mark.slow
def test_what_is_dense_grows_with_the_fourth_power_of_the_side_and_the_rest_with_the_second():
    for name, values in figure1.against_side().items():
        growth = math.log2(values[-1] / values[-2])
        assert growth == pytest.approx(4 if name.endswith("fc") else 2, abs=0.1)
