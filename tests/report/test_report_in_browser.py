"""The report in a real browser: nothing on the console, nothing from the network, everything there and in its place."""

from __future__ import annotations

import json

import pytest
from sample_run import write_run
from support.browser import CHROMEDRIVER, CHROMIUM, open_browser

from tstune.runs.report import write_report

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER),
    reason="chromium or chromedriver is absent: apt-get install chromium chromium-driver",
)
SLOW_VIEWS = ((390, "light"), (1440, "dark"))
VIEWS = [(390, "dark"), (1440, "light"), *(pytest.param(*view, marks=pytest.mark.slow) for view in SLOW_VIEWS)]
SECTIONS = ["summary", "scoreboard", "comparisons", "cohort", "horizons", "items", "forecasts"]
SECTIONS += ["calibration", "glucose", "error-grids", "hypo", "profile", "strata", "training", "cost"]
SECTIONS += ["provenance"]
FIGURES = ["forest-plot", "split-timeline", "rmse-by-horizon", "change-by-item", "heat-map-models"]
FIGURES += ["heat-map-horizons", "forecast-1", "forecast-20", "coverage", "reliability", "pit"]
FIGURES += ["coverage-by-step", "grid-clarke-30min", "grid-dts-8h", "hypo-low-0", "hypo-very_low-1"]
FIGURES += ["time-in-ranges", "loss", "learning-rate", "phases"]
SIZES = """return [...document.querySelectorAll(arguments[0])].map(e => {
  const box = e.getBoundingClientRect();
  return [e.id || e.closest('[id]').id, box.width, box.height, box.left, box.right, e.closest('[hidden]') !== null];
});"""
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth;"
GROUND = "return getComputedStyle(document.body).backgroundColor;"
SHOWN = "return [...document.querySelectorAll(arguments[0])].filter(e => e.getClientRects().length > 0).length;"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The largest one: 300 items, 20 examples, a name that is markup and one that does not break."""
    names = {0: "<script>alert(1)</script>", 1: "unbroken_" * 9}
    folder = write_run(tmp_path_factory.mktemp("run"), items=300, num_examples=20, names=names)
    write_report(folder)
    assert (folder / "report.html").stat().st_size < 3e6
    return folder / "report.html"


def test_the_browser_would_notice(browser, tmp_path):
    page = tmp_path / "bad.html"
    wide = "<div style='width: 3000px'>x</div><img src='http://127.0.0.1:9/x.png'><script>console.error('no')</script>"
    page.write_text(f"<!DOCTYPE html><meta name=viewport content='width=device-width'>{wide}", encoding="utf-8")
    browser.open(page, 390)
    assert any("no" in message for message in browser.messages())
    assert "http://127.0.0.1:9/x.png" in browser.requests()
    assert browser.run(OVERFLOW) > 2000


def test_it_opens_in_the_artifact_viewer_of_mlflow(browser, report, tmp_path):
    """Which shows a page as a blob in a frame that may run scripts and nothing else."""
    html = json.dumps(report.read_text(encoding="utf-8")).replace("</", "<\\/")
    frame = f"<iframe sandbox='allow-scripts' width=1200 height=900></iframe><script>const page = {html};"
    frame += (
        "document.querySelector('iframe').src = URL.createObjectURL(new Blob([page], {type: 'text/html'}))</script>"
    )
    (tmp_path / "viewer.html").write_text(f"<!DOCTYPE html><meta charset=utf-8>{frame}", encoding="utf-8")
    browser.open(tmp_path / "viewer.html", 1440)
    browser.driver.switch_to.frame(0)
    sections = browser.wait_for("return [...document.querySelectorAll('main > section')].map(e => e.id)", 30)
    browser.driver.switch_to.default_content()
    assert sections == SECTIONS
    assert browser.messages() == []


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_everything_is_there_and_nothing_sticks_out(browser, report, tmp_path, width, scheme):
    browser.open(report, width, scheme)
    sections = {id_: (right - left, high) for id_, _, high, left, right, _ in browser.run(SIZES, "main > section")}
    assert list(sections) == SECTIONS
    assert all(wide > 300 and high > 60 for wide, high in sections.values())

    figures = {row[0]: row for row in browser.run(SIZES, "figure")}
    assert set(FIGURES) <= set(figures)
    for id_, wide, high, left, right, hidden in figures.values():
        if not hidden:
            assert wide > 250, id_
            assert high > 100, id_
            assert 0 <= left < right <= width, id_
    plots = [row for row in browser.run(SIZES, ".canvas > svg") if row[1] > 0]
    assert {row[0] for row in plots} == {
        id_ for id_, *_, hidden in figures.values() if not hidden and "heat" not in id_
    }
    assert len(plots) == len({row[0] for row in plots}), "one of the two sizes of each plot"
    assert all(wide > 250 and high > 60 for _, wide, high, *_ in plots)

    assert browser.run(OVERFLOW) == 0
    ground = browser.run(GROUND)
    assert ground == {"light": "rgb(251, 251, 250)", "dark": "rgb(18, 21, 24)"}[scheme]
    assert browser.messages() == []
    assert browser.requests() == [report.as_uri()]
    browser.screenshot(tmp_path / f"{width}-{scheme}.png")
    assert (tmp_path / f"{width}-{scheme}.png").stat().st_size > 20_000


@pytest.mark.parametrize("width", [390, pytest.param(1440, marks=pytest.mark.slow)])
def test_everything_is_readable_without_its_script(browser, report, width):
    browser.open(report, width, javascript=False)
    figures = browser.run(SIZES, "figure")
    assert len(figures) > 50
    assert all(wide > 250 and high > 100 and not hidden for _, wide, high, *_, hidden in figures)
    names = browser.run(SIZES, ".choice-name")
    assert len(names) > 20
    assert all(wide > 0 and high > 0 for _, wide, high, *_ in names)
    assert browser.run(SIZES, "#theme")[0][1] == 0, "a button that does nothing is not shown"
    assert browser.run(OVERFLOW) == 0
    assert browser.requests() == [report.as_uri()]


def test_the_button_changes_the_colours(browser, report):
    browser.open(report, 1440, "dark")
    assert browser.run("return document.getElementById('theme').textContent") == "Light"
    dark = browser.run(GROUND)
    browser.run("document.getElementById('theme').click()")
    assert browser.run("return document.getElementById('theme').textContent") == "Dark"
    light = browser.run(GROUND)
    assert dark != light
    browser.run("document.getElementById('theme').click()")
    assert browser.run(GROUND) == dark
    assert browser.messages() == []


def test_a_legend_hides_and_shows_a_series_of_its_own_plots(browser, report):
    browser.open(report, 1440)
    series, button = "#rmse-by-horizon .series[data-key=ridge]", "#rmse-by-horizon .legend button[data-key=ridge]"
    press = "document.querySelector(arguments[0]).click()"
    assert browser.run(SHOWN, series) == 1, "the line of the plot for this width"
    browser.run(press, button)
    assert browser.run(SHOWN, series) == 0
    assert browser.run("return document.querySelector(arguments[0]).ariaPressed", button) == "false"
    browser.run(press, button)
    assert browser.run(SHOWN, series) == 1

    ridge = "#forecasts .series[data-key=ridge]"
    assert browser.run(SHOWN, ridge) == 0, "baselines are off at first among the examples"
    browser.run(press, "#forecasts .legend button[data-key=ridge]")
    assert browser.run(SHOWN, ridge) == 20
    assert browser.messages() == []


def test_grids_and_horizons_are_chosen_together(browser, report):
    browser.open(report, 390)
    shown = "return [...document.querySelectorAll('#error-grids figure')].filter(f => f.offsetHeight).map(f => f.id)"
    assert browser.run(shown) == ["grid-clarke-30min"]
    press = """for (const button of document.querySelectorAll('#error-grids .picker button'))
      if (button.textContent === arguments[0] && button.offsetHeight) { button.click(); return true; }
      return false;"""
    assert browser.run(press, "DTS")
    assert browser.run(press, "120\u00a0min")
    assert browser.run(shown) == ["grid-dts-120min"]
    assert browser.run(press, "Parkes")
    assert browser.run(shown) == ["grid-parkes-120min"], "the horizon stays"
    assert browser.run(OVERFLOW) == 0
    assert browser.messages() == []


def test_every_choice_can_be_seen(browser, report):
    browser.open(report, 390)
    pressed, empty, overflow = browser.run("""let pressed = 0; const empty = []; let overflow = 0;
      for (const box of document.querySelectorAll('.choices')) {
        for (const button of box.querySelectorAll(':scope > .picker > button')) {
          button.click(); pressed += 1;
          const open = [...box.children].filter(c => c.matches('.choice') && !c.hidden);
          if (open.length !== 1 || open[0].dataset.name !== button.textContent) empty.push(button.textContent);
          overflow = Math.max(overflow, document.documentElement.scrollWidth - document.documentElement.clientWidth);
        }
      }
      return [pressed, empty, overflow];""")
    assert pressed > 25
    assert empty == []
    assert overflow == 0
    assert browser.messages() == []


def test_the_crosshair_reads_the_table_with_mouse_and_keys(browser, report):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.open(report, 1440)
    plot = browser.driver.find_element(By.CSS_SELECTOR, "#rmse-by-horizon svg.lines")
    browser.run("arguments[0].scrollIntoView({block: 'center'})", plot)
    ActionChains(browser.driver).move_to_element(plot).perform()
    tip = "return document.querySelector('.tip').innerText"
    words = browser.run(tip)
    lead = words.splitlines()[0].removeprefix("Lead time: ")
    cell = "return [...document.querySelectorAll('#rmse-by-horizon tbody tr')]"
    cell += ".find(row => row.cells[0].innerText === arguments[0] || row.cells[0].textContent === arguments[0])"
    assert f"{browser.run(f'{cell}.cells[1].textContent', lead)} mg/dL" in words
    assert "ridge" in words
    browser.run("document.querySelector('#rmse-by-horizon .legend button[data-key=ridge]').click()")
    plot.send_keys(Keys.ARROW_RIGHT)
    assert browser.run(tip).splitlines()[0] != words.splitlines()[0], "one step on"
    assert "ridge" not in browser.run(tip)
    plot.send_keys(Keys.ESCAPE)
    assert browser.run("return document.querySelector('.tip').hidden") is True
    assert browser.messages() == []


def test_the_page_moves_to_a_section_and_says_where_it_is(browser, report):
    browser.open(report, 1440)
    browser.run("document.querySelector('nav a[href=\"#hypo\"]').click()")
    top = browser.run("return Math.abs(document.getElementById('hypo').getBoundingClientRect().top)")
    assert top < 100
    found = browser.driver.execute_async_script(
        "const done = arguments[0]; setTimeout(() => done(document.querySelector('nav [aria-current=true]').hash), 300)"
    )
    assert found == "#hypo"
