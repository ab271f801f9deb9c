import base64
import io
import re
import time
from dataclasses import asdict, replace
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from PIL import Image

from amint.calibration import Calibration, benjamini_hochberg, holm
from amint.effect import effect
from amint.errors import AlphaError, UsageError
from amint.evidence import HEAD, Control, Evidence, Provenance, SetTest, Verdict
from amint.metrics import auroc, auroc_interval, balanced_accuracy_interval, tpr_at_fpr_interval
from amint.power import power_curve
from amint.report import METHODS, pictured, write_report, write_training_report
from amint.wording import chance

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

    def whole(self, tag, style):
        """All text inside the elements of this tag and class, whatever is nested in them, in one line each."""
        found = re.findall(rf'<{tag} class="{style}"[^>]*>(.*?)</{tag}>', self.text, re.DOTALL)
        return [" ".join("".join(word for *_, word in Page(inner).words).split()) for inner in found]

    def key(self):
        return dict(zip(self.said("dt"), self.said("dd", "value"), strict=True))


def check_self_contained(page):
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "image", "base"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert [tag for tag, _ in page.tags].count("style") == 1
    ids = page.attributes("id")
    assert len(set(ids)) == len(ids)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(one["src"].startswith("data:image/png;base64,") and one["alt"] for one in pictures)
    assert all(set(one) == {"src", "alt"} for one in pictures)
    references = page.attributes("href", "xlink:href")
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
    tests = set_tests({HEAD: (scores, calibration.scores)}) if len(scores) else ()
    together = min((test.adjusted for test in tests), default=None)
    n = len(calibration.scores)
    fields = {
        "decision": "cannot tell" if together is None else "used" if together <= alpha else "no evidence",
        "p_value": together,
        "alpha": alpha,
        "items": tuple(items),
        "tests": tests,
        "controls": (),
        "reason": "",
        "comparison": f"Each sample is compared with all {n} calibration samples.",
        "power": None,
        "provenance": Provenance(bundle_sha256="ab" * 32, method="active"),
        "calibration_n": n,
        "smallest_p": 1 / (n + 1),
        "created": "2025-01-31T12:00:00+00:00",
        "libraries": {"amint-audit": "0.1.0", "torch": "2.9.1"},
    }
    return Verdict(**(fields | changes))


def set_tests(kinds):
    p_values = [Calibration(known).set_p_value(own) for own, known in kinds.values()]
    tests = []
    for (name, sides), p_value, adjusted in zip(kinds.items(), p_values, holm(p_values).tolist(), strict=True):
        size = effect(*sides)
        ends = size.interval.low, size.interval.high
        tests.append(SetTest(name, p_value, adjusted, size.superiority, *ends, size.members_at_least, size.samples))
    return tuple(tests)


def page_of(verdict, calibration, folder, **options):
    path = write_report(verdict, calibration, folder / "new" / "report.html", **options)
    page = Page(path.read_text(encoding="utf-8"))
    check_self_contained(page)
    assert page.whole("p", f"sentence {verdict.decision.replace(' ', '-')}") == [verdict.sentence()]
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
        "Used, after correction" if n == 1 else "Used one by one, after correction": str(
            int((benjamini_hochberg(p) <= 0.01).sum())
        ),
        "p-value, all together": "–" if not n else chance(verdict.p_value),
    }
    assert f"up to {0.01 * n:.3g} expected by chance" in page.text
    shapes = [attributes.get("role", "icon") for tag, attributes in page.tags if tag == "svg"]
    assert shapes == ["icon"] + ["img"] * 3 * bool(n)
    assert page.said("bdi")[-1] == "notes.txt"
    assert page.said("td", "name")[0] == "not an image"
    assert any(said.startswith("“No evidence” is not “not used”") for said in page.said("li"))
    assert "ab" * 32 in page.said("td", "name")


def test_copies_are_named_and_drawn_once(calibration, tmp_path):
    copied = verdict_of([5.0, 5.0, 5.0, -3.0], calibration, names=["<a>", "b", "c", "d"])
    items = [replace(item, copy_of="<a>" if item.path in "bc" else None) for item in copied.items]
    page = page_of(replace(copied, items=tuple(items)), calibration, tmp_path)
    assert page.said("bdi") == ["<a>", "b", "<a>", "c", "<a>", "d"]
    assert "the strongest evidence, corrected; 2 exact copies left out" in page.said("dd")
    assert all(
        text in page.text for text in ("submission, 2 scores", "2 p-values from", "Exact copies are drawn once.")
    )


def test_near_copies_are_named_beside_the_p_value_that_they_are_not_counted_in(calibration, tmp_path):
    verdict = verdict_of([5.0, 4.0, 3.0, -3.0], calibration)
    tests = tuple(replace(test, samples=2) for test in verdict.tests)
    page = page_of(replace(verdict, tests=tests), calibration, tmp_path)
    assert "the strongest evidence, corrected; 2 near copies not counted again" in page.said("dd")


@pytest.mark.parametrize("n", [1, 2])
def test_of_one_sample_no_correction_for_many_is_named(n, calibration, tmp_path):
    page = page_of(verdict_of([-3.0] * n, calibration), calibration, tmp_path)
    assert ("Benjamini-Hochberg" in page.text) is (n == 2)
    assert ("Holm at 0.01, for more than one kind of evidence" in page.said("dd")) is (n == 1)


def test_what_a_verdict_rests_on_and_what_to_do_stand_before_the_samples(calibration, tmp_path):
    verdict = verdict_of([1.0, -3.0], calibration, rejected=[("bad.txt", "empty")])
    page = page_of(verdict, calibration, tmp_path, thumbnails={"folder/0.png": picture()})
    assert [text.partition(",")[0].partition(":")[0] for text in page.said("h2")] == [
        "What the scores show",
        "The evidence",
        "Is this audit valid? Controls",
        "What this rests on",
        "What to do next",
        "The samples",
        "Judged samples",
        "Could not be judged",
        "Where it comes from",
    ]


def test_lists_the_twenty_most_and_five_least_suspicious_and_fifty_rejected(calibration, tmp_path):
    rejected = [(f"bad{i}.txt", "empty") for i in range(57)]
    verdict = verdict_of(np.random.default_rng(1).permutation(100) / 50, calibration, rejected=rejected)
    page = page_of(verdict, calibration, tmp_path)
    ranked = sorted(verdict.judged, key=lambda item: -item.score)
    shown = ranked[:20] + ranked[-5:]
    assert page.said("bdi") == [item.path for item in shown] + [name for name, _ in rejected[:50]]
    cells = page.said("td", "n")[-75:]
    numbers = ([f"{item.score:.3g}", chance(item.p_value), chance(item.adjusted)] for item in shown)
    assert cells == [cell for row in numbers for cell in row]
    assert "… 75 between them …" in page.said("td")
    assert "… and 7 more." in page.said("p")


@pytest.mark.parametrize("n", [19, 20, 21, 25, 26])
def test_every_sample_is_listed_once_or_counted_as_left_out(n, calibration, tmp_path):
    page = page_of(verdict_of(np.arange(n) / 10, calibration), calibration, tmp_path)
    listed = page.said("bdi")
    assert listed == [f"folder/{i}.png" for i in [*range(n)[::-1][:20], *range(n)[::-1][max(20, n - 5) :]]]
    assert len(listed) + ("… 1 between them …" in page.said("td")) == n


def test_hostile_names_stay_text(calibration, tmp_path):
    names = [*HOSTILE, "\u202egnp.exe", "lone\udcff surrogate", "nul\0 newline\n"]
    verdict = verdict_of(
        [*range(9, 0, -1)],
        calibration,
        names=names,
        rejected=[("x" * 9, reason) for reason in HOSTILE],
        provenance=Provenance(
            HOSTILE[1], HOSTILE[1], HOSTILE[0], HOSTILE[2], HOSTILE[2], HOSTILE[3], HOSTILE[4], {HOSTILE[0]: HOSTILE[2]}
        ),
        comparison=HOSTILE[0],
        controls=(Control(HOSTILE[0], "passed", HOSTILE[1]),),
        libraries={HOSTILE[0]: HOSTILE[2]},
    )
    page = page_of(verdict, calibration, tmp_path)
    escaped = [r"\u202egnp.exe", r"lone\udcff surrogate", r"nul\x00 newline\n"]
    assert page.said("bdi") == [*HOSTILE, *escaped, *["x" * 9] * len(HOSTILE)]
    facts = page.said("td", "name")
    assert facts[: len(HOSTILE)] == list(HOSTILE)
    assert {HOSTILE[1], HOSTILE[2], HOSTILE[3], HOSTILE[4], f"{HOSTILE[0]} {HOSTILE[2]}"} <= set(facts)
    assert f"{HOSTILE[0]}, {HOSTILE[2]} training steps" in facts
    assert {HOSTILE[0], HOSTILE[1]} <= set(page.said("p"))


def test_hostile_names_stay_text_beside_their_pictures(calibration, tmp_path):
    verdict = verdict_of([*range(len(HOSTILE))], calibration, names=list(HOSTILE))
    page = page_of(verdict, calibration, tmp_path, thumbnails=dict.fromkeys(HOSTILE, picture()))
    alternatives = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert [text.partition(": p ")[0] for text in alternatives] == list(HOSTILE[::-1])


def test_long_names_are_shortened_and_may_break_anywhere(calibration, tmp_path):
    name, reason = "start" + "a" * 5000 + "end", "because" + "b" * 5000
    page = page_of(verdict_of([1.0], calibration, names=[name], rejected=[(name, reason)]), calibration, tmp_path)
    assert all(shown.startswith("start") and shown.endswith("aend") for shown in page.said("bdi"))
    assert max(map(len, [*page.said("bdi"), *page.said("td", "name")])) <= 403
    assert ".name { overflow-wrap: anywhere; }" in page.text
    cells = [
        attributes.get("class") for tag, attributes in page.tags if (tag, attributes.get("scope")) == ("th", "row")
    ]
    assert cells[1:3] == ["name", "name"]


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
    scores, p_values, roc = page.said("desc")
    area = auroc(np.r_[CASES["half"], calibration.scores], np.repeat([1, 0], [60, 300]))
    assert roc.startswith(f"submission: AUROC {area:.3f}; share of the submission at a false-alarm rate of:")
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


def picture(seed=0):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_pictures_of_the_most_and_the_least_suspicious(calibration, tmp_path):
    verdict = verdict_of(np.random.default_rng(1).permutation(60) / 20, calibration)
    best = [item.path for item in sorted(verdict.items, key=lambda item: -item.score)]
    names = pictured(verdict)
    assert names == (*best[:12], *best[-12:])
    thumbnails = {name: picture(i) for i, name in enumerate(names) if i != 3} | {"unknown": picture()}
    page = page_of(verdict, calibration, tmp_path, thumbnails=thumbnails)
    shown = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [one["alt"].partition(":")[0] for one in shown] == [name for name in names if name in thumbnails]
    contents = [base64.b64decode(one["src"].partition(",")[2]) for one in shown]
    assert contents == [thumbnails[name] for name in names if name in thumbnails]
    assert {"Most suspicious", "Least suspicious"} <= set(page.said("h3"))


def test_without_pictures_nothing_is_said_of_them(calibration, tmp_path):
    page = page_of(verdict_of([1.0, 2.0], calibration), calibration, tmp_path, thumbnails={})
    assert "img" not in {tag for tag, _ in page.tags}
    assert "The samples" not in page.said("h2")


@pytest.mark.parametrize("n, groups", [(0, (0, 0)), (1, (1, 0)), (2, (1, 1)), (7, (4, 3)), (24, (12, 12))])
def test_few_samples_are_pictured_once_each_and_copies_not_again(n, groups, calibration):
    verdict = verdict_of(np.arange(n), calibration)
    assert len(set(pictured(verdict))) == len(pictured(verdict)) == sum(groups) == n
    copies = [replace(item, path=f"copy {i}", copy_of=item.path) for i, item in enumerate(verdict.items)]
    assert pictured(replace(verdict, items=(*verdict.items, *copies))) == pictured(verdict)


def test_a_thumbnail_that_is_no_png_is_refused(calibration, tmp_path):
    with pytest.raises(UsageError, match=r"'folder/0\.png' is something else"):
        page_of(verdict_of([1.0], calibration), calibration, tmp_path, thumbnails={"folder/0.png": b"<svg/>"})
    assert list(tmp_path.iterdir()) == []


def test_both_kinds_of_evidence_and_their_contradiction_are_shown(calibration, tmp_path):
    rng = np.random.default_rng(3)
    own, sure = rng.normal(-3, 1, 40), rng.normal(1.5, 1, 40)
    tests = set_tests({HEAD: (own, calibration.scores), "confidence": (sure, rng.normal(0, 1, 300))})
    verdict = verdict_of(own, calibration, tests=tests, p_value=tests[1].adjusted, decision="used")
    assert verdict.contradiction
    page = page_of(verdict, calibration, tmp_path)
    (text,) = page.whole("div", "contradiction")
    assert text.startswith(f"Contradiction The two kinds of evidence disagree: {HEAD}: p {chance(tests[0].adjusted)};")
    cells = page.said("td", "n")
    for row, test in zip((cells[:4], cells[4:8]), tests, strict=True):
        assert row == [chance(test.p_value), chance(test.adjusted), f"{test.superiority:.3f}", row[3]]
        assert row[3] == f"{test.members_at_least} of 40"
        assert f"{test.low:.3f} – {test.high:.3f}" in page.said("small")
    assert "with 99.5 % confidence each, so that all of them hold with 99 %;" in " ".join(page.text.split())
    assert page_of(verdict_of(own, calibration), calibration, tmp_path).whole("div", "contradiction") == []


def test_a_failed_control_leads_the_checklist_and_is_the_verdict(calibration, tmp_path):
    controls = (
        Control("duplicates", "passed", "None of 9 submitted samples is known."),
        Control("order", "not checked", "Too few."),
        Control("blind baseline", "failed", "The pictures differ in size."),
    )
    verdict = verdict_of(
        np.arange(9), calibration, controls=controls, decision="cannot tell", reason="The pictures differ in size."
    )
    page = page_of(verdict, calibration, tmp_path)
    states = [attributes["class"] for tag, attributes in page.tags if tag == "li" and "class" in attributes]
    assert states == ["failed", "passed", "not-checked"]
    words = [word for word in page.said("span", "tag") if word in ("failed", "passed", "not checked")]
    assert words == ["failed", "passed", "not checked"]
    assert "None of 9 submitted samples is known." in page.said("p")
    assert page.whole("p", "meaning")[0].startswith("A control failed:")
    assert page.said("td", "n")[3] == "–", "no number of used samples while the cause is open"
    assert any(said.startswith("A control failed: what follows is no evidence") for said in page.said("p"))
    assert page.text.index("Cannot tell:") < page.text.index("The pictures differ in size.")


def test_power_is_drawn_and_said(calibration, tmp_path):
    curve = power_curve(np.random.default_rng(5).normal(-1.5, 1, 200), calibration.scores)
    page = page_of(verdict_of(CASES["half"], calibration, power=asdict(curve)), calibration, tmp_path)
    assert f"{curve.needed} samples are needed for 80% of submissions" in page.text
    described = page.said("desc")[3]
    for point in curve.points:
        assert f"{point.n:,}: {point.rate:.0%} (95 % interval {point.interval.low:.0%} to" in described
    weak = power_curve(np.random.default_rng(5).normal(-3, 1, 200), calibration.scores)
    assert weak.needed is None
    page = page_of(verdict_of([], calibration, power=asdict(weak)), calibration, tmp_path)
    assert "Half of 200 known members are too few for 80% of submissions" in page.text
    assert len(page.said("desc")) == 1
    assert "Not known how many samples" in page_of(verdict_of([1.0], calibration), calibration, tmp_path).text


def test_a_comparison_by_class_draws_its_own_p_values_and_no_line(calibration, tmp_path):
    verdict = verdict_of([1.0, -3.0], calibration)
    items = tuple(replace(item, p_value=p) for item, p in zip(verdict.items, (0.25, 0.75), strict=True))
    page = page_of(replace(verdict, items=items, by_class=True), calibration, tmp_path)
    assert "at or above the line" not in page.said("desc")[0]
    assert "2 p-values from 0.25 to 0.75" in page.said("desc")[1]


@pytest.mark.parametrize(
    "by_class, said", [(True, "known members are kept without their class"), (False, "audit.evaluate")]
)
def test_what_is_said_of_the_samples_needed_hangs_on_how_they_were_compared(by_class, said, calibration, tmp_path):
    # The very p-values that a comparison with all would give.
    page = page_of(verdict_of(CASES["unseen"], calibration, by_class=by_class), calibration, tmp_path)
    assert said in page.text
    assert ("audit.evaluate" in page.text) is not by_class
    assert ("outscores a calibration sample of its class" in " ".join(page.text.split())) is by_class


def test_where_it_comes_from(calibration, tmp_path):
    figure = {"value": 0.9631, "low": 0.95, "high": 0.974, "n": [300, 1347]}
    evaluation = {"alpha": 0.05, "auroc": figure, "balanced_accuracy": figure, "tpr_at_fpr_0.01": figure}
    origin = Provenance(
        "ab" * 32, "cd" * 32, "active", 1250, 7, "ef" * 32, "The bundle is signed.", evaluation, "Told."
    )
    page = page_of(verdict_of([1.0], calibration, provenance=origin), calibration, tmp_path)
    facts = page.said("td", "name")
    value = "0.963 (95 % interval 0.950 – 0.974; 300 members, 1,347 unseen)"
    expected = [
        "ab" * 32,
        "cd" * 32,
        "ef" * 32,
        "active MINT, 1250 training steps",
        "7",
        "The bundle is signed.",
        value,
    ]
    assert set(expected) <= set(facts)
    assert facts.count(value) == 3
    heads = {"Owner’s AUROC", "Owner’s balanced accuracy, at alpha = 0.05", "Owner’s TPR at an FPR of 0.01"}
    assert heads <= set(page.said("th"))
    assert "The owner’s word for who was what. Told." in " ".join(page.text.split())
    assert "The model was changed 7 times while the head saw nothing of it." in " ".join(page.text.split())


@pytest.mark.parametrize("evaluation", [[1], "x", {"auroc": None}, {"auroc": {"value": "x"}}, {"a": {"n": 3}}, 4])
def test_evaluation_figures_that_amint_did_not_write_do_no_harm(evaluation, calibration, tmp_path):
    page_of(verdict_of([], calibration, provenance=Provenance(evaluation=evaluation)), calibration, tmp_path)


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


def test_training_report_gives_intervals_at_thresholds_fixed_before(tmp_path):
    thresholds = dict.fromkeys(curves(), 0.75)
    path = write_training_report(RESULTS, curves(), {}, tmp_path / "report.html", thresholds=thresholds)
    page = Page(path.read_text(encoding="utf-8"))
    for members, unseen in curves().values():
        interval = balanced_accuracy_interval(np.r_[members, unseen], np.repeat([1, 0], [80, 120]), 0.75)
        assert f"{interval.low:.3f} – {interval.high:.3f}" in page.said("small")


def test_training_report_refuses_missing_and_empty_scores(tmp_path):
    lacking = {label: scores for label, scores in curves().items() if label != METHODS["passive"]}
    with pytest.raises(UsageError, match="curves lack passive MINT"):
        write_training_report(RESULTS, lacking, {}, tmp_path / "report.html")
    with pytest.raises(UsageError, match="found 80 members and 0 non-members"):
        write_training_report(RESULTS, curves() | {METHODS["passive"]: (np.ones(80), [])}, {}, tmp_path / "report.html")
