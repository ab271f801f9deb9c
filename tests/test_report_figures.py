import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from amint.calibration import Calibration
from amint.report.figures import _edges, null_band, p_value_plot, power_plot, roc_plot, score_histogram

LINE = "#d55e00"


def drawn(svg):
    """The line of the first colour in an SVG, as shares ``[k, 2]`` of the axes' width and height."""
    root = ElementTree.fromstring(svg)
    (box,) = root.iter("rect")
    x, y, width, height = (float(box.get(name)) for name in ("x", "y", "width", "height"))
    (line,) = (p for p in root.iter("path") if p.get("clip-path") and f"stroke: {LINE}" in p.get("style"))
    points = np.array(re.findall(r"[ML] (\S+) (\S+)", line.get("d")), float)
    return np.c_[(points[:, 0] - x) / width, (y + height - points[:, 1]) / height]


def test_p_value_plot_draws_the_sorted_p_values():
    p = np.random.default_rng(0).permutation(np.arange(1, 61) / 61) ** 2
    line = drawn(p_value_plot("p", p, 1000, 0.01))
    height = np.interp(np.arange(1, 61) / 61, line[:, 0], line[:, 1] * 1.04 - 0.02)
    np.testing.assert_allclose(height, np.sort(p), atol=1e-3)


def test_roc_plot_draws_the_step_curve_on_a_log_axis():
    members, others = [3.0, 3.0, 1.0, -9.0], np.r_[2.0, 2.0, np.zeros(198)]
    line = drawn(roc_plot("roc", {"one": (members, others)}))
    fpr, found = 10 ** (3 * line[:, 0] - 3), line[:, 1] * 1.02
    np.testing.assert_allclose((fpr[0], fpr[-1], found[-1]), (0.001, 1, 1), atol=1e-4)
    np.testing.assert_allclose(found[fpr < 0.0099], 0.5, atol=1e-4)
    np.testing.assert_allclose(found[(fpr > 0.0105) & (fpr < 0.99)], 0.75, atol=1e-4)


def test_roc_plot_of_single_samples():
    line = drawn(roc_plot("roc", {"one": ([1.0], [0.0])}))
    np.testing.assert_allclose(line[[0, -1]] * (1, 1.02), [(0, 1), (1, 1)], atol=1e-4)


def test_roc_plot_says_what_its_axes_count():
    svg = roc_plot("roc", {"one": ([1.0], [0.0])}, found="share found", among="others")
    assert svg.count("false alarms among others") == 2
    assert "AUROC 1.000; share found at a false-alarm rate of: 100.0% at 1%" in svg


def test_power_plot_draws_the_rates_over_a_logarithmic_axis():
    points = [
        {"n": n, "rate": rate, "interval": {"low": rate / 2, "high": (1 + rate) / 2}, "mean_p": 0.1}
        for n, rate in ((1, 0.0), (10, 0.5), (100, 1.0))
    ]
    svg = power_plot("power", {"points": points, "target": 0.8, "alpha": 0.01}, 20)
    lines = re.findall(r'<path d="(M [^"]*)" clip-path="[^"]*" style="fill: none; stroke: #d55e00', svg)
    (line,) = (line for line in lines if line.count("L") == 2)
    x, y = np.array(re.findall(r"[ML] (\S+) (\S+)", line), float).T
    np.testing.assert_allclose(np.diff(x)[0], np.diff(x)[1], rtol=1e-3)
    np.testing.assert_allclose(np.diff(y)[0], np.diff(y)[1], rtol=1e-3)
    assert "10: 50% (95 % interval 25% to 75%)" in svg
    assert "this submission: 20" in svg
    assert "this submission" not in power_plot("power", {"points": points[:1], "target": 0.8, "alpha": 0.01}, 0)


def test_histogram_keeps_its_shape_beside_a_wild_score():
    expected, found = np.linspace(0, 1, 200), np.linspace(2, 3, 50)
    calm = drawn(score_histogram("h", ("a", expected), ("b", found)))
    svg = score_histogram("h", ("a", [-1e9, *expected]), ("b", [*found, 1e9]))
    assert "counted in the outermost bars: 2." in svg
    assert "counted in the outermost bars" not in score_histogram("h", ("a", expected), ("b", found))
    # Half of the axis belongs to each group, and in the other half the outline lies on the ground.
    assert calm[calm[:, 1] > 0.01][:, 0].min() > 0.5
    # With both wild scores the axis runs from about -1 to 4, and a fifth of it belongs to this group.
    wild = drawn(svg)
    assert np.ptp(wild[wild[:, 1] > 0.5][:, 0]) > 0.15
    far = score_histogram("h", ("a", expected), ("b", found), ("p ≤ 0.01", 1e9))
    np.testing.assert_allclose(drawn(far), calm, atol=1e-4)
    assert "p ≤ 0.01 from 1e+09 up" in far


def test_histogram_of_tied_scores_has_width_and_hides_nothing():
    line = drawn(score_histogram("h", ("a", [-3.0] * 90), ("b", [-3.0] * 40)))
    assert 0.02 < np.ptp(line[line[:, 1] > 0.5][:, 0]) < 0.2
    mostly = [0.0] * 95 + [1.0, 2.0, 3.0, 4.0, 5.0]
    assert "Beyond the axis" not in score_histogram("h", ("a", [0.0]), ("b", mostly))


def test_band_holds_unused_data_as_often_as_it_says():
    rng = np.random.default_rng(0)
    m, n = 40, 99
    low, high = null_band(np.arange(1, m + 1) / (m + 1), m, n)
    inside = []
    for _ in range(400):
        p = np.sort(Calibration(rng.normal(size=n)).p_values(rng.normal(size=m)))[2:-2]
        # A p-value is a count out of 100: half a step is the rounding.
        inside.append((p >= low[2:-2] - 0.005) & (p <= high[2:-2] + 0.005))
    assert 0.93 <= np.mean(inside) <= 0.975


def test_import_loads_no_drawing_and_drawing_no_pyplot():
    code = (
        "import sys, amint; print(*{'matplotlib', 'jinja2'} & set(sys.modules)); import amint.report.figures as f; "
        "f.score_histogram('h', ('a', [0.0]), ('b', [1.0])); "
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "\nTrue False\n"


@pytest.mark.parametrize("line", [0.5, 1.7, 2.9])
def test_no_bar_lies_on_both_sides_of_the_threshold(line):
    scores = [np.random.default_rng(seed).normal(1.5, 1, 200) for seed in range(2)]
    edges = _edges(scores, line)
    assert line in edges
    without = _edges(scores, None)
    assert edges[0] <= without[0] < without[-1] <= edges[-1]
    np.testing.assert_allclose(np.diff(edges), np.diff(without)[0])
    for beside in (without[0] - 1, without[-1] + 1):
        np.testing.assert_array_equal(_edges(scores, beside), without)
