import re
from xml.etree import ElementTree

import numpy as np
import pytest
from comparison_toys import compared
from comparison_values import comparison, controls, result
from test_report import HOSTILE, Page, check_self_contained

from amint.attack_results import AttackControl
from amint.errors import UsageError
from amint.gate import Limit, check_gate
from amint.report.comparison import write_comparison_report
from amint.report.curves import MOST_CURVES, log_roc


def page_of(made, folder, gate=None):
    page = Page(write_comparison_report(made, folder / "new" / "report.html", gate).read_text(encoding="utf-8"))
    check_self_contained(page)
    return page


def test_shows_every_figure_of_a_real_comparison(tmp_path):
    made = compared(60, 90, attacks=["loss", "rmia-offline", "correctness", "mint"])
    page = page_of(made, tmp_path)
    assert made.sentence() in page.said("p")[0]
    assert page.said("td", "n")
    shown = " ".join(page.said("td", "n"))
    for r in made.attacks:
        assert r.name in page.said("th")
        for measured in r.measurements:
            assert f"{measured.value:.3f}" in shown
            assert f"{measured.interval.low:.3f} – {measured.interval.high:.3f}" in page.said("small")
        assert r.about in page.said("td", "name")
    assert set(made.notes) <= set(page.said("li"))
    assert any(text.startswith(made.epsilon_sentence()) for text in page.said("p"))
    assert {made.target["members_sha256"], "all" if made.settings["attacks"] == "all" else "0.95"} <= set(
        page.said("td", "name")
    )
    assert page.key()["Attacks run"] == "4"


def test_the_sentence_says_first_what_counts(tmp_path):
    clear = page_of(comparison(result(auroc=0.7)), tmp_path)
    assert clear.said("p", "sentence used")[0].startswith("The attack loss tells")
    unclear = page_of(comparison(result(auroc=0.5, p_value=0.4)), tmp_path)
    assert unclear.said("p", "sentence no-evidence")[0].startswith("No attack from outside clearly")
    spoiled = page_of(comparison(result(auroc=0.7), passed=False), tmp_path)
    assert spoiled.said("p", "sentence used")[0].startswith("Do not rely on this table")
    assert spoiled.key()["Controls"] == "failed"
    assert spoiled.said("span", "tag failed") == ["failed", "failed"]


def test_the_gate_is_told_in_words(tmp_path):
    made = comparison(result(auroc=0.7))
    for most, word in ((0.6, "Broken."), (0.9, "Passed.")):
        gate = check_gate(made, [Limit("auroc", most)])
        page = page_of(made, tmp_path, gate)
        assert page.said("strong", "tag") == [word]
        assert gate.sentence() in page.said("p")
    assert page_of(made, tmp_path).said("strong", "tag") == []


def test_what_did_not_run_is_told_with_its_reason(tmp_path):
    lacking = AttackControl("untrained twin", "loss", None, None, "this target has no untrained twin")
    made = comparison(
        result("loss"),
        result("gmint", reason="needs gradient: no linear layer"),
        controls=(lacking, *controls("loss", kinds=["shuffled membership"])),
    )
    page = page_of(made, tmp_path)
    assert "Could not run: needs gradient: no linear layer" in page.said("small")
    assert "could not run: this target has no untrained twin" in page.said("small", "name")


def test_a_comparison_in_which_nothing_ran(tmp_path):
    page = page_of(comparison(result("a", reason="x"), result("b", reason="y")), tmp_path)
    assert page.said("p", "sentence no-evidence") == ["No attack from outside could run. Could not run: a, b."]
    assert page.key() == {"Epsilon, at least": "–", "Attacks run": "0", "Controls": "none"}
    assert "svg" not in {tag for tag, _ in page.tags}


def test_hostile_names_stay_text(tmp_path):
    names = [*HOSTILE, "\u202egnp.exe", "lone\udcff surrogate", "nul\0 newline\n", "x" * 5000]
    made = comparison(*(result(name, note=name) for name in names), result("late", reason=HOSTILE[0]), notes=names)
    page = page_of(made, tmp_path)
    assert set(HOSTILE) <= set(page.said("th"))
    assert r"\u202egnp.exe" in page.said("th")
    assert set(HOSTILE) <= set(page.said("li"))
    assert all(labels.isprintable() for labels in page.said("desc"))


def test_every_table_cell_has_a_label_for_narrow_screens(tmp_path):
    page = page_of(comparison(result("a"), result("b", 0.7)), tmp_path)
    labelled = [attributes["data-label"] for tag, attributes in page.tags if "data-label" in attributes]
    assert labelled[:8] == labelled[8:]
    assert labelled[:5] == [
        "AUROC",
        "Balanced accuracy",
        "Found at 10 % false alarms",
        "Found at 1 % false alarms",
        "Found at 0.1 % false alarms",
    ]


def test_figures_show_each_family_and_the_strongest_of_each(tmp_path):
    many = [result(f"one{i}", 0.6 + i / 100) for i in range(8)]
    made = comparison(*many, result("rmia", 0.8, family="references"), result("lira", 0.81, family="references"))
    page = page_of(made, tmp_path)
    assert page.said("h3") == ["The strongest of each kind", "References", "One model", "One model, continued"]
    best, references, first, rest = page.said("desc")
    assert "lira: AUROC 0.810" in best
    assert "one7: AUROC 0.670; members found at a false-alarm rate of: 33.5 % at 10 %" in best
    assert "rmia" in references
    assert [first.count("AUROC"), rest.count("AUROC")] == [MOST_CURVES, 8 - MOST_CURVES]


GREYS = {"#6b7280", "#e5e7eb"}


def drawn(svg):
    """Lines of the figure with their dashes: ``[k, 2]`` in shares of the axes' width and height."""
    root = ElementTree.fromstring(svg)
    (box,) = root.iter("rect")
    x, y, width, height = (float(box.get(name)) for name in ("x", "y", "width", "height"))
    lines = {}
    for path in root.iter("path"):
        color = re.search(r"stroke: (#\w+)", path.get("style") or "")
        points = np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d")), float)
        if path.get("clip-path") and color and color[1] not in GREYS:
            lines[color[1]] = np.c_[(points[:, 0] - x) / width, (y + height - points[:, 1]) / height], path.get("style")
    return lines


def test_curves_lie_where_they_belong_on_both_logarithmic_axes():
    curve = ((0.0, 0.0), (0.01, 0.1), (0.1, 0.5), (1.0, 1.0))
    lines = drawn(log_roc("roc", "title", {"a": (curve, "in words")}, (0.001, 0.01)))
    ((line, _),) = lines.values()
    fpr, tpr = 10 ** (3 * line[:, 0] - 3), 10 ** (line[:, 1] * (np.log10(1.1) + 2) - 2)
    assert fpr.min() == pytest.approx(0.01, rel=0.03)
    np.testing.assert_allclose(tpr[(fpr > 0.0103) & (fpr < 0.097)], 0.1, rtol=1e-2)
    np.testing.assert_allclose(tpr[(fpr > 0.103) & (fpr < 0.97)], 0.5, rtol=1e-2)
    assert tpr[-1] == pytest.approx(1, rel=1e-2)


def test_curves_differ_in_more_than_colour():
    curves = {f"attack {i}": (((0.0, 0.1 + 0.1 * i), (1.0, 1.0)), f"words {i}") for i in range(MOST_CURVES)}
    svg = log_roc("roc", "title", curves, (0.001, 0.001))
    lines = drawn(svg)
    assert len(lines) == MOST_CURVES
    dashes = [re.search(r"stroke-dasharray: ([^;]+)", style) for _, style in lines.values()]
    assert len({found[1] if found else "solid" for found in dashes}) == MOST_CURVES
    shapes = {path.get("d") for defs in ElementTree.fromstring(svg).iter("defs") for path in defs.iter("path")}
    assert len(shapes) >= MOST_CURVES
    assert all(f"attack {i}: words {i}" in svg for i in range(MOST_CURVES))
    with pytest.raises(UsageError, match="7 curves cannot be told apart"):
        log_roc("roc", "title", curves | {"one more": (((0.0, 0.0), (1.0, 1.0)), "")}, (0.1, 0.1))


def test_same_comparison_same_bytes(tmp_path):
    made = comparison(result(), result("rmia", 0.8, family="references"))
    first, second = (write_comparison_report(made, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second
    assert len(first) < 100_000
