"""The site as a reader meets it, in a browser: every page, by mouse, by keyboard and on a phone."""

import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urldefrag

import nbformat
import pytest
from browser import Watch, launch, serve
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mer_lab.errors import MerLabError
from mer_lab.files import ROOT, write_text
from mer_lab.site import build, main

pytest.importorskip("sphinx", reason="the site's packages are not installed: .[site]")

# MyST-Parser uses what Sphinx 11 will not have, and is told so on every page.
pytestmark = pytest.mark.filterwarnings("ignore:.*MystReferenceResolver")

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
FACTS = """() => ({
  undescribed: [...document.images].filter(i => !(i.alt || "").trim()).map(i => i.src.slice(0, 80)),
  broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src.slice(0, 80)),
  headings: [...document.querySelectorAll("article :is(h1, h2, h3, h4, h5, h6)")].map(h => +h.tagName[1]),
  links: [...document.querySelectorAll("a[href]")].map(a => a.href),
  ids: [...document.querySelectorAll("[id]")].map(e => e.id),
  math: document.querySelectorAll(".math.notranslate").length,
  typeset: [...document.querySelectorAll(".math.notranslate")]
    .filter(m => m.querySelector(".MathJax")?.offsetWidth > 0).length,
  mistakes: [...document.querySelectorAll(".merror, .noError, .MathJax_Error")].map(m => m.textContent),
  language: document.documentElement.lang,
})"""
SIZES = """() => ({
  wide: [document.documentElement, ...document.querySelectorAll(".content")]  // Furo lets the latter scroll
    .filter(e => e.scrollWidth > Math.min(e.clientWidth, innerWidth)).map(e => e.tagName),
  small: [...document.querySelectorAll("article :is(p, li)")]
    .filter(e => e.offsetWidth && !e.closest(".cell_output") && parseFloat(getComputedStyle(e).fontSize) < 14)
    .map(e => e.textContent.slice(0, 40)),
})"""
TYPESET = "() => window.MathJax && new Promise(done => MathJax.Hub.Register.StartupHook('End', () => done()))"
FOCUS = """() => {
  const e = document.activeElement, seen = e.matches(":focus-visible") && getComputedStyle(e);
  const box = e.getBoundingClientRect();
  return {tag: e.tagName, id: e.id, class: e.className, href: e.getAttribute("href"),
    outlined: seen && seen.outlineStyle !== "none" && parseFloat(seen.outlineWidth) >= 2,
    inside: box.width > 0 && box.bottom > 0 && box.top < innerHeight && box.left < innerWidth};
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site of this checkout."""
    return build(tmp_path_factory.mktemp("site") / "site").parent


@pytest.fixture(scope="module")
def address(site):
    with serve(site) as address:
        yield address


@pytest.fixture(scope="module")
def page(address):
    with launch() as browser:
        page = browser.new_page(viewport=DESKTOP)
        page.set_default_timeout(10_000)
        yield page


@pytest.fixture(scope="module")
def visits(site, page, address):
    """Every page, opened on a phone and widened to a desktop: what was found there, by its path."""
    watch, found = Watch(page), {}
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        page.set_viewport_size(PHONE)
        status = page.goto(address + name).status
        page.evaluate(TYPESET)
        found[name] = {"status": status} | page.evaluate(SIZES)
        page.set_viewport_size(DESKTOP)
        found[name] |= page.evaluate(FACTS) | {"problems": watch.problems}
        watch.clear()
    return found


def each(visits: dict, key: str) -> dict:
    """What the visits found under ``key``, of the pages that have something there."""
    return {name: visit[key] for name, visit in visits.items() if visit[key]}


def test_every_page_loads_and_asks_for_nothing_elsewhere(visits):
    lessons = {f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    documents = {f"docs/{path.stem}.html" for path in (ROOT / "docs").glob("*.md")} - {"docs/index.html"}
    assert {"index.html", "search.html"} | lessons | documents <= set(visits)
    assert {visit["status"] for visit in visits.values()} == {200}
    assert not each(visits, "problems")
    assert {visit["language"] for visit in visits.values()} == {"en"}


def test_every_image_is_there_and_is_described(visits):
    assert not each(visits, "undescribed")
    assert not each(visits, "broken")


def test_every_link_leads_somewhere(site, visits, address):
    dead = []
    for name, visit in visits.items():
        for link in visit["links"]:
            if not link.startswith(address):
                continue
            target, anchor = urldefrag(link.removeprefix(address))
            target = unquote(target) or "index.html"
            if not (site / target).is_file():
                dead.append(f"{name}: {target}")
            elif anchor and target in visits and unquote(anchor) not in visits[target]["ids"]:
                dead.append(f"{name}: {target}#{anchor}")
    assert not dead
    assert not [link for v in visits.values() for link in v["links"] if link.startswith("file:")]


def test_headings_are_in_order(visits):
    for name, visit in visits.items():
        levels = visit["headings"]
        if name != "search.html":
            assert levels[0] == 1 and levels.count(1) == 1, name
        assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False)), name


def test_formulas_are_typeset(visits):
    assert visits["notebooks/05_alignment_attention.html"]["math"] > 20
    for name, visit in visits.items():
        assert visit["typeset"] == visit["math"] and not visit["mistakes"], name


def test_a_phone_shows_every_page_without_scrolling_sideways(visits):
    assert not each(visits, "wide")
    assert not each(visits, "small")


def test_lessons_are_downloaded_as_they_are(site, visits):
    for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"):
        links = visits[f"notebooks/{path.stem}.html"]["links"]
        [offered] = {link[link.index("_downloads") :] for link in links if link.endswith(path.name)}
        assert (site / offered).read_bytes() == path.read_bytes()


def test_search_finds_a_lesson_and_opens_it(page, address):
    page.goto(address)
    page.get_by_role("textbox", name="Search").first.fill("alignment")
    page.keyboard.press("Enter")
    hit = page.locator("#search-results li a[href*='05_alignment_attention']").first
    hit.wait_for()
    hit.click()
    page.wait_for_url("**/notebooks/05_alignment_attention.html*")
    assert page.locator("h1").inner_text().startswith("05 Alignment attention")


def test_the_keyboard_reaches_skip_link_search_and_lessons(page, address):
    page.goto(f"{address}notebooks/00_start_here.html")
    steps = []
    for _ in range(10):
        page.keyboard.press("Tab")
        page.wait_for_timeout(30)
        steps.append(page.evaluate(FOCUS))
        if "skip-to-content" in steps[-1]["class"]:
            page.wait_for_function(f"() => ({FOCUS})().inside")  # it slides in
            steps[-1] = page.evaluate(FOCUS)
        if (steps[-1]["href"] or "").endswith("01_corpora.html"):
            break
    names = [f"{s['class']} {s['href']}" for s in steps]
    assert any("skip-to-content" in name for name in names[:2]), names
    assert any("sidebar-search" in name for name in names), names
    shown = [s for s in steps if s["tag"] != "INPUT" or "search" in s["class"]]
    assert all(s["outlined"] and s["inside"] for s in shown), steps
    page.keyboard.press("Enter")
    page.wait_for_url("**/01_corpora.html")


def test_the_skip_link_passes_the_navigation_by(page, address):
    page.goto(f"{address}notebooks/00_start_here.html")
    page.locator(".skip-to-content").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("() => !!document.activeElement.closest('article')")


def test_on_a_phone_the_keyboard_opens_the_menu(page, address):
    page.set_viewport_size(PHONE)
    page.goto(f"{address}notebooks/00_start_here.html")
    lesson = page.locator(".sidebar-drawer a[href='01_corpora.html']").first
    assert not lesson.is_visible()  # and so no stop of the Tab key while the menu is closed
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUS)["id"] == "__navigation"
    page.keyboard.press("Space")
    lesson.wait_for()
    lesson.press("Enter")
    page.wait_for_url("**/01_corpora.html")
    page.set_viewport_size(DESKTOP)


def test_a_clip_plays(page, address):
    page.goto(f"{address}notebooks/00_start_here.html")
    assert page.locator("audio").count() >= 5
    seconds = page.evaluate("""async () => {
      const clip = document.querySelector("audio");
      await clip.play();
      await new Promise(done => clip.addEventListener("timeupdate", () => clip.currentTime > 0.1 && done()));
      return [clip.currentTime, clip.duration];
    }""")
    assert 0.1 < seconds[0] < seconds[1]


def test_in_the_dark_outputs_keep_their_contrast(page, address):
    page.emulate_media(color_scheme="dark")
    page.goto(f"{address}notebooks/05_alignment_attention.html")
    faint = page.evaluate("""() => {
      const light = colour => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
          .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = e => {
        for (; e; e = e.parentElement) {
          const colour = getComputedStyle(e).backgroundColor;
          if (!/, 0\\)$|transparent/.test(colour)) return colour;
        }
        return "rgb(255, 255, 255)";
      };
      const kinds = "p, li, h1, h2, td, th, strong, div > span, figcaption, pre";
      return [...document.querySelectorAll(`article :is(${kinds})`)]
        .filter(e => e.offsetWidth && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
        .map(e => [light(getComputedStyle(e).color), light(ground(e)), e.textContent.slice(0, 40)])
        .filter(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5).map(x => x[2]);
    }""")
    page.emulate_media(color_scheme="light")
    assert not faint


# What the command does with a checkout that is not quite right: a small one.


@pytest.fixture
def small(tmp_path) -> Path:
    """A checkout with one lesson, its exercise, a document and a script."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "docs" / "_static", root / "docs" / "_static")
    shutil.copyfile(ROOT / "docs" / "conf.py", root / "docs" / "conf.py")
    home = "# Home\n\n[its exercises](../notebooks/exercises), [later](later.md)\n\n<!-- lessons -->\n"
    write_text(root / "docs" / "index.md", home)
    write_text(root / "docs" / "extra.md", "# Extra\n\n[a script](../run.py), [a folder](../docs)\n")
    write_text(root / "run.py", "print('run')\n")
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    images = [
        new_output("display_data", {"image/png": pixel}, metadata={"image/png": {"alt": alt, "width": 70}})
        for alt in ('first "one"', "second [one]")
    ]
    picture = new_code_cell("draw()", outputs=images)
    title = new_markdown_cell("# 01 Pictures. What is seen?\n\n[Try](exercises/01_pictures.ipynb)")
    elsewhere = "https://elsewhere.invalid"
    badge = new_markdown_cell(f"# Try 01\n\n[![Open it]({elsewhere}/badge.svg)]({elsewhere})")
    for name, cells in (("01_pictures", [title, picture]), ("exercises/01_pictures", [badge])):
        (root / "notebooks" / name).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(new_notebook(cells=cells), root / "notebooks" / f"{name}.ipynb")
    return root


def test_a_small_checkout_becomes_a_site(small, tmp_path):
    first = build(tmp_path / "site", root=small)
    lesson = (first.parent / "notebooks" / "01_pictures.html").read_text(encoding="utf-8")
    assert 'alt="first &quot;one&quot;"' in lesson and 'alt="second [one]"' in lesson
    assert lesson.count(">draw<") == 1  # the cell is not shown again with its second image
    assert 'href="exercises/01_pictures.html"' in lesson
    home, exercise = first.read_text(encoding="utf-8"), first.parent / "notebooks/exercises/01_pictures.html"
    assert "What is seen?" in home
    assert re.search('href="notebooks/exercises/index.html"[^/]*its exercises', home)
    badge = exercise.read_text(encoding="utf-8")
    assert "Open it" in badge and "badge.svg" not in badge
    [script] = first.parent.glob("_downloads/*/run.py")
    assert script.read_bytes() == (small / "run.py").read_bytes()
    assert not list(small.glob("**/_build")) and not list(small.glob("**/jupyter_execute"))


def test_a_mistake_is_named_and_the_site_of_yesterday_stays(small, tmp_path, capsys):
    first = build(tmp_path / "site", root=small)
    write_text(small / "docs" / "extra.md", "# Extra\n\nSee [nothing](missing.md).\n")
    with pytest.raises(MerLabError, match=r"docs.extra\.md:3: .*missing\.md"):
        build(tmp_path / "site", root=small)
    assert "script" in (first.parent / "docs" / "extra.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkout", "site"]


def test_nothing_but_a_site_is_replaced(small, tmp_path, capsys):
    write_text(tmp_path / "thesis" / "chapter.txt", "years of work")
    assert main(["--out", str(tmp_path / "thesis")]) == 1
    assert "something else than a site" in capsys.readouterr().err
    assert (tmp_path / "thesis" / "chapter.txt").is_file()
    with pytest.raises(MerLabError, match="no docs/conf.py"):
        build(tmp_path / "out", root=tmp_path)
    with pytest.raises(MerLabError, match="no lesson"):
        build(tmp_path / "out", notebooks=tmp_path / "thesis", root=small)
    assert not (tmp_path / "out").exists()


def test_lessons_just_run_can_be_shown(small, tmp_path):
    ran = tmp_path / "course"
    shutil.copytree(small / "notebooks", ran, ignore=shutil.ignore_patterns("exercises"))
    text = (ran / "01_pictures.ipynb").read_text(encoding="utf-8")
    write_text(ran / "01_pictures.ipynb", text.replace("What is seen?", "What is new?"))
    assert "What is new?" in build(tmp_path / "site", notebooks=ran, root=small).read_text(encoding="utf-8")
