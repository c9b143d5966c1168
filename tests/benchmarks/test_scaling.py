import pytest

from bench import scaling as scaling_command
from bench.benchmarks import scaling


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--arch", "ditt"], "did you mean dit"),
        (["--size", "huge"], "huge"),
        (["--processes", "0"], "must be at least 1"),
        (["--batch", "-3"], "must be at least 1"),
        (["--data", "nope"], "unknown data set 'nope'"),
    ],
)
def test_a_mistake_is_answered_in_one_line(flags, words, capsys):
    assert scaling_command.main(flags) == 2
    out, err = capsys.readouterr()
    assert words in err and err.startswith("bench.scaling: ") and err.count("\n") == 1 and not out


def test_ideal_is_the_throughput_of_one_times_the_processes():
    results = {
        ("same", 1): [scaling.ScalingResult(s, 0.0, 0.0) for s in (0.1, 0.2, 9.0)],
        ("same", 2): [scaling.ScalingResult(0.125, 0.001, 0.02)],
        ("grown", 2): [scaling.ScalingResult(0.2, 0.001, 0.02)],
    }
    rows = scaling.scaling_table(results, 64)
    assert [(r["batch"], r["images/s"], r["ideal"], r["of ideal"]) for r in rows] == [
        ("64 same", "320", "320", "100%"),
        ("64 same", "512", "640", "80%"),
        ("128 grown", "640", "640", "100%"),
    ]
    assert rows[1]["agree (ms)"] == "1.000" and rows[1]["gradients (ms)"] == "20.00"
