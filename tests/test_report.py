import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest

from amint.calibration import Calibration, benjamini_hochberg
from amint.errors import AlphaError, UsageError
from amint.evidence import Evidence, Verdict
from amint.metrics import auroc_interval, tpr_at_fpr_interval
from amint.report import METHODS, write_report, write_training_report

VOID = {"meta", "br", "img", "link", "input", "hr", "base", "source", "embed"}
HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>.png",
    "{{ 7 * 7 }}{% raw %}.png",
    "&lt;b&gt;&amp;.png",
    "Ünïcödé-画像-🙂.png",
    "]]><!--.png",
)


class Page(HTMLParser):
    """A page read strictly: every tag closed in order, text and attributes by tag."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.text, self.open, self.tags, self.words, self.pairs = text, [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert len({name for name, _ in attributes}) == len(attributes)
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes).get("class", "")))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.words.append((*self.open[-1], data) if self.open else ("", "", data))

    def said(self, tag, style=None):
        """The texts directly inside elements of this tag and class."""
        return [w.strip() for t, c, w in self.words if t == tag and (style is None or c == style) and w.strip()]

    def attributes(self, *names):
        return [value for _, attributes in self.tags for name, value in attributes.items() if name in names]

    def key(self):
        return dict(zip(self.said("dt"), self.said("dd", "value"), strict=True))


def check_self_contained(page):
    assert not {tag for tag, _ in page.tags} & {"script", "img", "link", "iframe", "object", "embed", "image", "base"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert [tag for tag, _ in page.tags].count("style") == 1
    ids = page.attributes("id")
    assert len(set(ids)) == len(ids)
    references = page.attributes("href", "xlink:href", "src")
    targets = re.findall(r"url\(([^)]*)\)", page.text)
    assert all(target.startswith("#") for target in references + targets)
    assert {target[1:] for target in references + targets} <= set(ids)
    assert not re.findall(r"@import|\w+://", page.text)


def verdict_of(scores, calibration, alpha=0.01, names=None, rejected=(), **changes):
    scores = np.asarray(scores, float)
    p = calibration.p_values(scores)
    adjusted = benjamini_hochberg(p)
    names = names or [f"folder/{i}.png" for i in range(len(scores))]
    items = [
        Evidence(name, "used" if q <= alpha else "no evidence", float(s), float(one), float(q), "", f"{i:064x}")
        for i, (name, s, one, q) in enumerate(zip(names, scores, p, adjusted, strict=True))
    ]
    items += [Evidence(name, "cannot tell", note=note) for name, note in rejected]
    together = calibration.set_p_value(scores) if len(scores) else None
    decision = "cannot tell" if together is None else "used" if together <= alpha else "no evidence"
    fields = {
        "bundle_sha256": "ab" * 32,
        "method": "active MINT",
        "created": "2025-01-31T12:00:00+00:00",
        "libraries": {"amint-audit": "0.1.0", "torch": "2.9.1"},
    }
    n = len(calibration.scores)
    return Verdict(decision, together, alpha, tuple(items), n, 1 / (n + 1), **(fields | changes))


def page_of(verdict, calibration, folder):
    page = Page(write_report(verdict, calibration, folder / "new" / "report.html").read_text(encoding="utf-8"))
    check_self_contained(page)
    assert page.said("p", f"sentence {verdict.decision.replace(' ', '-')}") == [verdict.sentence()]
    return page


@pytest.fixture
def calibration():
    return Calibration(np.random.default_rng(0).normal(-3, 1, 300))


CASES = {
    "members": np.linspace(0, 4, 60),
    "unseen": np.linspace(-5, -1, 60),
    "half": np.r_[np.linspace(-5, -1, 30), np.linspace(0, 4, 30)],
    "one": [-3.0],
    "ties": [-3.0] * 40,
    "wild": [*np.linspace(-5, -1, 60), 3e38, -3e38],
    "nothing": [],
}


@pytest.mark.parametrize("case", CASES)
def test_shows_verdict_and_counts(case, calibration, tmp_path):
    verdict = verdict_of(CASES[case], calibration, rejected=[("notes.txt", "not an image")])
    page = page_of(verdict, calibration, tmp_path)
    n = len(CASES[case])
    p = calibration.p_values(np.asarray(CASES[case], float))
    assert page.key() == {
        "Submitted": str(n + 1),
        "Judged": str(n),
        "Flagged one by one": str(int((p <= 0.01).sum())),
        "Used, after correction": str(int((benjamini_hochberg(p) <= 0.01).sum())),
        "p-value, all together": "–" if not n else "< 0.0001" if verdict.p_value < 1e-4 else f"{verdict.p_value:.2g}",
    }
    assert f"up to {0.01 * n:.3g} expected by chance" in page.text
    assert [attributes["role"] for tag, attributes in page.tags if tag == "svg"] == ["img", "img"] * bool(n)
    assert page.said("bdi")[-1] == "notes.txt"
    assert page.said("td", "name")[0] == "not an image"
    assert "“No evidence” is not “not used”" in page.text
    assert "ab" * 32 in page.said("td", "name")


def test_copies_are_named_and_drawn_once(calibration, tmp_path):
    copied = verdict_of([5.0, 5.0, 5.0, -3.0], calibration, names=["<a>", "b", "c", "d"])
    items = [replace(item, copy_of="<a>" if item.path in "bc" else None) for item in copied.items]
    page = page_of(replace(copied, items=tuple(items)), calibration, tmp_path)
    assert page.said("bdi") == ["<a>", "b", "<a>", "c", "<a>", "d"]
    assert "one rank-sum test of all scores; 2 exact copies left out" in page.said("dd")
    assert all(
        text in page.text for text in ("submission, 2 scores", "2 p-values from", "Exact copies are drawn once.")
    )


def test_lists_the_twenty_most_suspicious_and_fifty_rejected(calibration, tmp_path):
    rejected = [(f"bad{i}.txt", "empty") for i in range(57)]
    verdict = verdict_of(np.random.default_rng(1).permutation(100) / 50, calibration, rejected=rejected)
    page = page_of(verdict, calibration, tmp_path)
    best = sorted(verdict.judged, key=lambda item: -item.score)[:20]
    assert page.said("bdi") == [item.path for item in best] + [name for name, _ in rejected[:50]]
    assert page.said("td", "n")[::3] == [f"{item.score:.3g}" for item in best]
    assert "… and 7 more." in page.said("p")


def test_hostile_names_stay_text(calibration, tmp_path):
    names = [*HOSTILE, "\u202egnp.exe", "lone\udcff surrogate", "nul\0 newline\n"]
    verdict = verdict_of(
        [*range(9, 0, -1)],
        calibration,
        names=names,
        rejected=[("x" * 9, reason) for reason in HOSTILE],
        method=HOSTILE[0],
        bundle_sha256=HOSTILE[1],
        libraries={HOSTILE[0]: HOSTILE[2]},
    )
    page = page_of(verdict, calibration, tmp_path)
    escaped = [r"\u202egnp.exe", r"lone\udcff surrogate", r"nul\x00 newline\n"]
    assert page.said("bdi") == [*HOSTILE, *escaped, *["x" * 9] * len(HOSTILE)]
    facts = page.said("td", "name")
    assert facts[: len(HOSTILE)] == list(HOSTILE)
    assert {HOSTILE[0], HOSTILE[1], f"{HOSTILE[0]} {HOSTILE[2]}"} <= set(facts)


def test_long_names_are_shortened_and_may_break_anywhere(calibration, tmp_path):
    name, reason = "start" + "a" * 5000 + "end", "because" + "b" * 5000
    page = page_of(verdict_of([1.0], calibration, names=[name], rejected=[(name, reason)]), calibration, tmp_path)
    assert all(shown.startswith("start") and shown.endswith("aend") for shown in page.said("bdi"))
    assert max(map(len, [*page.said("bdi"), *page.said("td", "name")])) <= 403
    assert ".name { overflow-wrap: anywhere; }" in page.text
    cells = [
        attributes.get("class") for tag, attributes in page.tags if (tag, attributes.get("scope")) == ("th", "row")
    ]
    assert cells[:2] == ["name", "name"]


def test_hundred_thousand_files_make_a_small_report_quickly(tmp_path):
    rng = np.random.default_rng(0)
    calibration = Calibration(rng.normal(size=20_000))
    verdict = verdict_of(rng.normal(size=70_000), calibration, rejected=[("broken.png", "truncated")] * 30_000)
    start = time.process_time()
    path = write_report(verdict, calibration, tmp_path / "report.html")
    assert time.process_time() - start < 10
    assert path.stat().st_size < 200_000
    assert Page(path.read_text(encoding="utf-8")).key()["Submitted"] == "100,000"


def test_same_verdict_same_bytes_whatever_the_settings(calibration, tmp_path):
    verdict = verdict_of(CASES["half"], calibration)
    first = write_report(verdict, calibration, tmp_path / "a.html").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True}):
        before = dict(matplotlib.rcParams)
        second = write_report(verdict, calibration, tmp_path / "b.html").read_bytes()
        assert dict(matplotlib.rcParams) == before
    assert first == second


def test_text_alternative_gives_the_numbers(calibration, tmp_path):
    verdict = verdict_of(CASES["half"], calibration)
    page = page_of(verdict, calibration, tmp_path)
    scores, p_values = page.said("desc")
    assert f"submission, 60 scores: median {np.median(CASES['half']):.3g}" in scores
    assert f"{verdict.flagged} at or above the line" in scores
    assert f"60 p-values from {1 / 301:.2g}" in p_values
    assert f"{verdict.flagged} are at or below 0.01" in p_values
    for labels in page.attributes("aria-labelledby"):
        assert set(labels.split()) <= set(page.attributes("id"))


def test_refuses_another_calibration_and_an_alpha_out_of_reach(calibration, tmp_path):
    with pytest.raises(UsageError, match=r"rests on 300 calibration scores, but .* holds 2"):
        write_report(verdict_of([1.0], calibration), Calibration([0.0, 1.0]), tmp_path / "report.html")
    with pytest.raises(AlphaError, match="out of reach with 300"):
        write_report(verdict_of([1.0], calibration, alpha=0.001), calibration, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


RESULTS = {
    "task": {"plain_accuracy": 0.958, "audited_accuracy": 0.952},
    "active": {"auroc": 0.987, "balanced_accuracy": 0.951, "tpr_at_fpr_0.01": 0.811},
    "registered": {"auroc": 0.983, "balanced_accuracy": 0.942, "tpr_at_fpr_0.01": 0.782},
    "passive": {"auroc": 0.561, "balanced_accuracy": 0.543, "tpr_at_fpr_0.01": 0.024},
    "calibration": {"n": 300, "alpha": 0.01, "false_alarm_rate": 0.013},
    "verify": {"members": {"n": 60, "flagged": 60, "set_p_value": 1e-9}},
    "seconds": 63.2,
}


def curves():
    rng = np.random.default_rng(0)
    return {label: (rng.normal(2 - i, 1, 80), rng.normal(0, 1, 120)) for i, label in enumerate(METHODS.values())}


def test_training_report_compares_methods_and_shows_the_verdicts(calibration, tmp_path):
    verdicts = {name: verdict_of(CASES[name], calibration) for name in ("members", "unseen")}
    page = Page(
        write_training_report(RESULTS, curves(), verdicts, tmp_path / "report.html").read_text(encoding="utf-8")
    )
    check_self_contained(page)
    (sentence,) = page.said("p", "sentence used")
    for part in ("AUROC of 0.987", "passive MINT: 0.561", "95.2 %", "95.8 %"):
        assert part in sentence
    assert page.key()["False alarms, measured"] == "1.3 %"
    assert "−0.6 points" in page.said("dd")
    figures = [f"{RESULTS[key][name]:.3f}" for key in METHODS for name in RESULTS[key]]
    assert page.said("td", "n") == [*figures, *(f"{v.flagged} of 60" for v in verdicts.values())]
    assert {v.sentence() for v in verdicts.values()} < set(page.said("small"))
    assert [text.split(":")[0] for text in page.said("th")][-2:] == ["members", "unseen"]
    for members, unseen in curves().values():
        scores, labels = np.r_[members, unseen], np.repeat([1, 0], [80, 120])
        for interval in (auroc_interval(scores, labels), tpr_at_fpr_interval(scores, labels, 0.01)):
            assert f"{interval.low:.3f} – {interval.high:.3f}" in page.said("small")
    roc, histogram = page.said("desc")
    assert all(f"{label}: AUROC" in roc for label in METHODS.values())
    assert "members, 80 scores" in histogram
    assert "unseen, 120 scores" in histogram


def test_training_report_refuses_missing_and_empty_scores(tmp_path):
    lacking = {label: scores for label, scores in curves().items() if label != METHODS["passive"]}
    with pytest.raises(UsageError, match="curves lack passive MINT"):
        write_training_report(RESULTS, lacking, {}, tmp_path / "report.html")
    with pytest.raises(UsageError, match="found 80 members and 0 non-members"):
        write_training_report(RESULTS, curves() | {METHODS["passive"]: (np.ones(80), [])}, {}, tmp_path / "report.html")
