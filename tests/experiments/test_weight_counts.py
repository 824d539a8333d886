from lconv_jax.experiments import weight_counts


def test_tables_show_the_true_d_local_beside_the_printed_one(capsys):
    weight_counts.main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("| all")] == [
        "| all | 1,445,955 | 11,713,920 | 282,203,520 | 3,403,320 |",
        "| all | 138,312,450 | 147,607,200 | 256,240,800 |",
    ]
    assert [line for line in lines if line.startswith("| conv3")] == [
        "| conv3 | 8,100 | 2,073,600 | 58,982,400 | 518,400 |"
    ]


def test_alpha_side_channels_and_classes_are_arguments(capsys):
    weight_counts.main(["--alpha", "2", "--side", "16", "--channels", "1", "--classes", "4"])
    output = capsys.readouterr().out
    assert "| conv1 | 18 | 4,608 | 131,072 | 4,608 |" in output
    assert "| fc2 | 192 | 192 | 192 |" in output
