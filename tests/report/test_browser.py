"""The page in a browser: it loads nothing, says nothing on the console, and shows the numbers."""

import json
import re

import pytest

pytest.importorskip("altair")

from lconv_jax.report import page, recorded
from lconv_jax.rundir import metrics
from tests.report.hostile import HOSTILE, make_hostile


class Shown:
    """A page in a tab without network, and what it did that it should not."""

    def __init__(self, browser, path, **options):
        self.path = path
        self.context = browser.new_context(offline=True, **options)
        self.tab = self.context.new_page()
        self.faults = []
        self.tab.on("console", lambda message: self.faults.append(message.text))
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.on("dialog", lambda dialog: self.faults.append(dialog.message))
        self.tab.on("request", self._asked)
        self.tab.goto(path.as_uri())
        self.plots = self.tab.evaluate("window.reportReady")

    def _asked(self, request):
        if request.url != self.path.as_uri() and not request.url.startswith("data:"):
            self.faults.append(request.url)


@pytest.fixture(scope="module")
def written(finished, tmp_path_factory):
    """The page about the run, in a file."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page.render(recorded.read_all([str(finished[0])])), "utf-8")
    return path


@pytest.fixture
def show(browser):
    shown = []

    def show(path, **options):
        shown.append(Shown(browser, path, **options))
        return shown[-1]

    yield show
    for each in shown:
        each.context.close()


def test_it_draws_every_chart_and_asks_for_nothing(show, written):
    shown = show(written)
    assert shown.plots == 5
    assert shown.tab.locator(".plot svg").count() == shown.plots
    for index in range(shown.plots):
        assert shown.tab.locator(".plot").nth(index).locator("path[stroke^=var]").count() >= 1
    shown.tab.wait_for_timeout(200)
    assert shown.faults == []


def test_values_under_the_pointer_are_those_of_the_run(show, written, finished):
    tab = show(written).tab
    lines = metrics.read_metrics(finished[0])
    by_step = {}
    for line in lines:
        by_step.setdefault(line["step"], {}).update(line)
    plot = tab.locator(".plot").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    seen = set()
    for share in (0.35, 0.6, 0.97):
        tab.mouse.move(box["x"] + share * box["width"], box["y"] + 100)
        tip = tab.locator("#vg-tooltip-element.visible")
        tip.wait_for()
        names, values = (tip.locator(f"td.{kind}").all_inner_texts() for kind in ("key", "value"))
        rows = dict(zip(names, values, strict=True))
        step = int(rows["step"].replace(",", ""))
        seen.add(step)
        row = by_step[step]
        for label, name in (
            ("test", "eval/accuracy"),
            ("validation", "validation/accuracy"),
            ("training, each batch", "train/accuracy"),
        ):
            assert rows[label] == (f"{row[name]:.2%}" if name in row else "–")
    assert len(seen) == 3


def test_tables_hold_the_values_of_the_charts(show, written, finished):
    tab = show(written).tab
    tab.locator(".chart summary").first.click()
    table = tab.locator(".chart table.values").first
    assert table.is_visible()
    last = [cell.inner_text() for cell in table.locator("tbody tr").last.locator("td").all()]
    summary = finished[2]["metrics"]
    shares = (summary[f"{name}/accuracy"] for name in ("eval", "validation", "train"))
    assert last == ["12", f"{summary['step']:,}", *(f"{share:.2%}" for share in shares)]


def test_filters_are_sorted_and_enlarged_by_keyboard(show, written):
    tab = show(written).tab
    items = tab.locator(".gallery li")

    def column(key):
        return [float(item.get_attribute(f"data-{key}")) for item in items.all()]

    assert column("unit") == sorted(column("unit"))
    tab.get_by_label("Order").select_option("most weights first")
    assert column("nonzeros") == sorted(column("nonzeros"), reverse=True)
    tab.get_by_label("Order").select_option("most local first")
    assert column("share") == sorted(column("share"), reverse=True)
    assert len(set(column("unit"))) == items.count()

    items.nth(1).locator("button").focus()
    tab.keyboard.press("Enter")
    title = tab.locator("#large-title")
    assert title.inner_text() == f"Filter {column('unit')[1]:.0f}"
    picture = tab.locator("#large .pictures img")
    small = items.nth(1).locator("img")
    assert picture.get_attribute("src") == small.get_attribute("src")
    assert picture.bounding_box()["width"] > 2 * small.bounding_box()["width"]
    weights = f"{column('nonzeros')[1]:,.0f} weights that are not zero"
    assert weights in tab.locator("#large-facts").inner_text()
    tab.keyboard.press("ArrowRight")
    assert title.inner_text() == f"Filter {column('unit')[2]:.0f}"
    tab.keyboard.press("Escape")
    assert not tab.locator("#large").is_visible()
    assert tab.evaluate("document.activeElement.closest('li').dataset.unit") == str(
        int(column("unit")[2])
    )


def test_what_is_used_has_a_name_and_is_reached_by_keyboard(show, written):
    tab = show(written).tab
    nameless = """() => [...document.querySelectorAll(
        'a, button, select, summary, [role=region], dialog')].filter((each) =>
        !(each.innerText || '').trim() && !each.getAttribute('aria-label')
        && !each.getAttribute('aria-labelledby') && !each.labels?.length).length"""
    assert tab.evaluate(nameless) == 0
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(60):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.tagName"))
    assert {"A", "DIV", "SUMMARY", "SELECT", "BUTTON"} <= reached


def test_it_fits_a_phone(show, written):
    tab = show(written, viewport={"width": 360, "height": 740}, has_touch=True).tab
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    for plot in tab.locator(".plot svg").all():
        assert plot.bounding_box()["width"] <= 360
    size = "parseFloat(getComputedStyle(document.body).fontSize)"
    assert tab.evaluate(size) >= 16


def _luminance(colour):
    channels = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_curves_stand_out_in_light_and_dark(scheme, show, written):
    tab = show(written, color_scheme=scheme).tab
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (_luminance(ground) < 0.05) == (scheme == "dark")
    for place, name, least in (
        ("p", "color", 4.5),
        (".fine", "color", 4.5),
        ("nav a", "color", 4.5),
        (".plot svg text", "fill", 4.5),
        (".plot svg path[stroke='var(--c0)']", "stroke", 3),
        (".plot svg path[stroke='var(--c1)']", "stroke", 3),
        (".plot svg path[stroke='var(--c2)']", "stroke", 3),
    ):
        colour = tab.locator(f"main {place}, header {place}").first.evaluate(
            f"(each) => getComputedStyle(each).{name}"
        )
        light, dark = sorted([_luminance(colour), _luminance(ground)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= least, (place, colour, ground)


def test_on_paper_all_is_open_and_nothing_is_cut(show, written):
    tab = show(written, color_scheme="dark", viewport={"width": 760, "height": 1000}).tab
    tab.emulate_media(media="print")
    assert _luminance(tab.evaluate("getComputedStyle(document.body).backgroundColor")) == 1
    folded = tab.locator("details:not(.chart details)")
    before = [each.get_attribute("open") is not None for each in folded.all()]
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert all(each.get_attribute("open") is not None for each in folded.all())
    assert not tab.locator("nav").is_visible()
    assert tab.locator(".settings").is_visible()
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert [each.get_attribute("open") is not None for each in folded.all()] == before


def test_hostile_names_are_shown_and_not_run(show, run, finished, tmp_path):
    hostile = make_hostile(run)
    name = HOSTILE.replace("/", "∕")
    path = tmp_path / "report.html"
    runs = recorded.read_all([str(hostile), str(finished[0])])
    path.write_bytes(page.render(runs).encode("utf-8", "replace"))
    shown = show(path)
    tab = shown.tab
    tab.wait_for_timeout(200)
    assert shown.faults == []
    assert tab.evaluate("window.hostile") is None
    assert tab.locator("img[src=x], script").count() == 3  # the page's own scripts
    assert tab.locator("#glance thead th").nth(1).inner_text().strip() == name
    plot = tab.locator(".plot").nth(2)
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    tab.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 100)
    tip = tab.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert name in tip.inner_text()
    assert tip.locator("img").count() == 0
    assert shown.faults == []


def test_a_run_without_anything_is_shown_too(show, run, tmp_path):
    for path in run.iterdir():
        if path.name != "config.json" and path.is_file():
            path.unlink()
    (run / "data.json").write_text(json.dumps(None))
    path = tmp_path / "report.html"
    path.write_text(page.render(recorded.read_all([str(run)])), "utf-8")
    shown = show(path)
    assert shown.plots == 0
    assert "What is missing" in shown.tab.locator("main").inner_text()
    assert shown.faults == []
