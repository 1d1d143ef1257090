"""The built site holds together, and works in a browser without a network.

``make docs`` runs this after Sphinx. By hand, from the root of the repository::

    SKPOISON_SITE=docs/_build/html python -m pytest docs/test_site.py

Without ``SKPOISON_SITE`` a site that is not built is skipped; with it, its absence is
an error. ``SKPOISON_SITE_GALLERY=0`` allows for a gallery that was not run.
"""

import functools
import html
import http.server
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

DOCS = Path(__file__).parent.resolve()
SITE = Path(os.environ.get("SKPOISON_SITE", DOCS / "_build" / "html")).resolve()
HAS_GALLERY = os.environ.get("SKPOISON_SITE_GALLERY", "1") != "0"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

sys.path.insert(0, str(DOCS))
from api_reference import API_REFERENCE  # noqa: E402

if not (SITE / "index.html").exists():
    if "SKPOISON_SITE" in os.environ:
        raise FileNotFoundError(f"SKPOISON_SITE: there is no {SITE / 'index.html'}")
    pytest.skip(f"the site is not built in {SITE}", allow_module_level=True)

EXAMPLES = sorted(
    path.relative_to(DOCS.parent / "examples").with_suffix("").as_posix()
    for path in (DOCS.parent / "examples").glob("*/plot_*.py")
)
_TAG = re.compile(r"<([a-zA-Z][\w-]*)((?:\s+[^<>]*?)?)/?>")
_ATTRIBUTE = re.compile(r"""([\w:-]+)\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)""")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CODE = re.compile(r"<(script|style)\b([^>]*)>.*?</\1>", re.DOTALL)
#: What a browser fetches by itself when it opens a page.
_FETCHED = {
    ("script", "src"),
    ("link", "href"),
    ("img", "src"),
    ("img", "srcset"),
    ("iframe", "src"),
    ("source", "src"),
    ("video", "src"),
    ("object", "data"),
    ("embed", "src"),
}
#: Relations of <link> that name a page and fetch nothing.
_NAMED = {"author", "index", "search", "next", "prev", "canonical", "copyright"}


class Page:
    """What the checks need of a page: its tags, ids and the text around them."""

    def __init__(self, path):
        self.name = path.relative_to(SITE).as_posix()
        source = _COMMENT.sub("", path.read_text(encoding="utf-8"))
        self.source = _CODE.sub(r"<\1\2></\1>", source)
        self.tags = [
            (tag.lower(), {k.lower(): html.unescape(v.strip("\"'")) for k, v in found})
            for tag, rest in _TAG.findall(self.source)
            for found in [_ATTRIBUTE.findall(rest)]
        ]
        self.ids = {a["id"] for _, a in self.tags if "id" in a}

    def resolve(self, link):
        """Return the file and the anchor that a relative link means."""
        path, anchor = urldefrag(link)
        target = self.name
        if path.partition("?")[0]:
            path = unquote(path.partition("?")[0])
            target = os.path.normpath(os.path.join(os.path.dirname(self.name), path))
        return target.replace(os.sep, "/"), unquote(anchor)


@pytest.fixture(scope="module")
def pages():
    paths = [p for p in SITE.rglob("*.html") if "_static" not in p.parts]
    return {page.name: page for page in map(Page, paths)}


def _is_external(link):
    return bool(re.match(r"(?:[a-zA-Z][\w+.-]*:|//)", link))


def _links(page):
    """Yield the links of a page within the site: file, anchor."""
    for tag, attributes in page.tags:
        for key in ("href", "src"):
            link = attributes.get(key, "")
            if link and tag != "base" and not _is_external(link):
                yield page.resolve(link)


def test_links_and_anchors_lead_somewhere(pages):
    broken, files = set(), {}
    for page in pages.values():
        for target, anchor in _links(page):
            if target not in files:
                files[target] = (SITE / target).is_file()
            if not files[target]:
                broken.add(f"{page.name}: no {target}")
            elif anchor and target in pages and anchor not in pages[target].ids:
                broken.add(f"{page.name}: no #{anchor} in {target}")
    assert not broken, sorted(broken)[:20]


def test_every_page_is_reached_from_the_first(pages):
    seen, waiting = set(), ["index.html"]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in pages:
            continue
        seen.add(name)
        waiting += [
            pages[name].resolve(a["href"])[0]
            for tag, a in pages[name].tags
            if tag == "a" and "href" in a and not _is_external(a["href"])
        ]
    # the search page is where the form leads
    assert set(pages) - seen <= {"search.html", "genindex.html", "py-modindex.html"}


def test_pages_have_a_title_and_no_leftovers_of_markup(pages):
    wrong = []
    for page in pages.values():
        counts = Counter(tag for tag, _ in page.tags)
        if counts["title"] != 1 or (counts["h1"] != 1 and page.name != "search.html"):
            wrong.append(f"{page.name}: {counts['title']} titles, {counts['h1']} h1")
        body = re.sub(r"<pre\b.*?</pre>", "", page.source, flags=re.DOTALL)
        text = re.sub(r"<[^>]*>", "", body)
        wrong += [
            f"{page.name}: {found}"
            for found in re.findall(r":(?:class|func|doc|ref|mod|math):`[^`]*`", text)
        ]
        if 'class="problematic"' in page.source or "system-message" in page.source:
            wrong.append(f"{page.name}: an error message of docutils")
    assert not wrong, wrong[:20]


def test_nothing_is_fetched_from_elsewhere(pages):
    fetched = [
        f"{page.name}: {tag} {a[key]}"
        for page in pages.values()
        for tag, a in page.tags
        for key in ("src", "srcset", "href", "data")
        if (tag, key) in _FETCHED
        and key in a
        and _is_external(a[key])
        and not a[key].startswith("data:")
        and not set(a.get("rel", "").split()) & _NAMED
    ]
    for path in SITE.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        for link in re.findall(r"""(?:@import|url\()\s*["']?([^"')\s;]+)""", text):
            if link.startswith(("data:", "#")):
                continue
            if _is_external(link):
                fetched.append(f"{path.name}: {link}")
            elif not (path.parent / re.split("[?#]", link)[0]).is_file():
                fetched.append(f"{path.name}: no {link}")
    assert not fetched, fetched[:20]


def test_links_to_elsewhere_are_well_formed(pages):
    wrong = []
    for page in pages.values():
        for tag, a in page.tags:
            link = a.get("href", "")
            if tag == "a" and _is_external(link) and not link.startswith("mailto:"):
                if not re.fullmatch(r"https://[\w.-]+\.[a-z]{2,}(/[^\s<>\"]*)?", link):
                    wrong.append(f"{page.name}: {link}")
        for number in re.findall(
            r"arxiv(?::|\.org/abs/)\s*(\S{1,14})", page.source, re.I
        ):
            if not re.match(r"(0[7-9]|[12]\d)(0[1-9]|1[0-2])\.\d{4,5}(?!\d)", number):
                wrong.append(f"{page.name}: arXiv {number}")
    assert not wrong, wrong[:20]


def test_images_exist_and_say_what_they_show(pages):
    wrong = set()
    for page in pages.values():
        for tag, a in page.tags:
            if tag != "img" or a.get("src", "").startswith("data:"):
                continue
            path = SITE / page.resolve(a["src"])[0]
            if not path.is_file() or path.stat().st_size < 60:
                wrong.add(f"{page.name}: no picture in {a['src']}")
            elif path.stat().st_size > 1_500_000:
                wrong.add(f"{path.name}: {path.stat().st_size} bytes")
            # the title beside a thumbnail says what it shows
            if not a.get("alt") and not path.stem.endswith("_thumb"):
                wrong.add(f"{page.name}: {a['src']} has no alt text")
    assert not wrong, sorted(wrong)[:20]


def test_sizes_are_sane(pages):
    sizes = {name: (SITE / name).stat().st_size for name in pages}
    assert max(sizes.values()) < 1_500_000, max(sizes, key=sizes.get)
    assert min(sizes.values()) > 2_000, min(sizes, key=sizes.get)
    total = sum(p.stat().st_size for p in SITE.rglob("*") if p.is_file())
    assert total < 150_000_000, total


def test_every_public_name_has_a_page(pages):
    missing = []
    for module, section in API_REFERENCE.items():
        if f"module-{module}" not in pages[f"generated/{module}.html"].ids:
            missing.append(module)
        for name in section["names"]:
            page = pages.get(f"generated/{module}.{name}.html")
            if page is None or f"{module}.{name}" not in page.ids:
                missing.append(f"{module}.{name}")
    assert not missing, missing


def test_mentions_of_public_names_are_links(pages):
    public = {name for section in API_REFERENCE.values() for name in section["names"]}
    mentions = re.compile(r'(<a [^>]*>)?<code class="xref py[^"]*">(.*?)</code>', re.S)
    loose = [
        f"{page.name}: {name}"
        for page in pages.values()
        for link, code in mentions.findall(page.source)
        for name in [re.sub(r"<[^>]*>|\(\)$", "", code)]
        if not link and name.rpartition(".")[2] in public
    ]
    assert not loose, loose[:20]


def test_search_index_knows_the_words():
    text = (SITE / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(re.fullmatch(r"Search\.setIndex\((.*)\);?", text, re.DOTALL)[1])
    for word in (
        "krum",
        "backdoor",
        "budget",
        "certif",
        "epsilon",
        "regress",
        "victim",
    ):
        assert word in index["terms"] or word in index["titleterms"], word
    titles = {title.lower() for title in index["alltitles"]}
    assert {"krum", "poisonedestimator", "pitfalls", "user guide"} <= titles


@pytest.mark.skipif(not HAS_GALLERY, reason="SKPOISON_SITE_GALLERY=0: not run")
def test_examples_were_run_and_show_pictures(pages):
    wrong, thumbs = [], Counter()
    for name in EXAMPLES:
        page = pages.get(f"auto_examples/{name}.html")
        if page is None:
            wrong.append(f"{name}: no page")
            continue
        stem = name.rpartition("/")[2]
        shown = [a["src"] for tag, a in page.tags if tag == "img"]
        if not any(f"sphx_glr_{stem}_0" in source for source in shown):
            wrong.append(f"{name}: no figure")
        thumb = SITE / "_images" / f"sphx_glr_{stem}_thumb.png"
        thumbs[thumb.read_bytes() if thumb.exists() else b""] += 1
    if max(thumbs.values()) > 1:
        wrong.append("examples share a thumbnail, which says that they were not run")
    assert not wrong, wrong


# In a browser. One page of ours opens pages of the site in a frame and writes down
# what it finds; the server is the only host that the browser can reach.

_PROBE = """<!DOCTYPE html><meta charset="utf-8"><title>probe</title><body><script>
const sleep = ms => new Promise(done => setTimeout(done, ms));
// beyond the right edge, and in nothing that scrolls
function sticksOut(element, w) {
  if (element.getBoundingClientRect().right <= w.innerWidth + 1) return false;
  for (let e = element; e.tagName != "ARTICLE"; e = e.parentElement)
    if (w.getComputedStyle(e).overflowX != "visible") return false;
  return true;
}
async function look(path, width, settled) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 900;
  const loaded = new Promise(done => frame.onload = done);
  frame.src = path; document.body.append(frame); await loaded;
  const d = frame.contentDocument, w = frame.contentWindow;
  for (const image of d.images) image.loading = "eager";
  await Promise.all([...d.images].map(i => i.decode().catch(() => 0)));
  for (let i = 0; i < 100 && !settled(d); i++) await sleep(50);
  const found = {
    path, settled: settled(d), title: d.title, images: d.images.length,
    broken: [...d.images].filter(i => !i.naturalWidth).map(i => i.src),
    elsewhere: w.performance.getEntriesByType("resource").map(e => e.name)
      .filter(n => !n.startsWith(location.origin) && !n.startsWith("data:")),
    wide: [...d.querySelectorAll("article *")].filter(e => sticksOut(e, w))
      .map(e => e.tagName + ": " + e.textContent.trim().slice(0, 60)),
    results: [...d.querySelectorAll("#search-results li a")].map(a => a.textContent),
    maths: [...d.querySelectorAll("math")].filter(
      m => m.getBoundingClientRect().width > 5).length,
  };
  frame.remove();
  return found;
}
async function all() {
  const found = [];
  for (const [path, width, need] of PAGES)
    found.push(await look(path, width, d => !need || !!d.querySelector(need)));
  return found;
}
all().catch(error => String(error)).then(found =>
  fetch("/found", {method: "POST", body: JSON.stringify(found)}));
</script>"""


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the site, the probe, and a place for what the probe found."""

    probe = b""
    found: queue.Queue = queue.Queue()

    def do_GET(self):
        if self.path != "/probe":
            return super().do_GET()
        self._answer(self.probe)

    def do_POST(self):
        self.found.put(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(b"")

    def _answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def browsed(pages, tmp_path_factory):
    """What a browser finds in some pages, by path; and what it says on its console."""
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium")
    results = "#search-results li:nth-of-type(3) a"
    wanted = [["search.html?q=krum", 1200, results]]
    wanted += [["search.html?q=no+such+word+qqxyz", 1200, ".search-summary"]]
    wanted += [[p, 1200, None] for p in ("index.html", "auto_examples/index.html")]
    wanted += [[f"auto_examples/{name}.html", 1200, None] for name in EXAMPLES[::8]]
    wanted += [["generated/skpoison.defenses.SpectralSignatures.html", 1200, "math"]]
    narrow = ("index", "quickstart", "guide", "which_attack", "migration", "federated")
    wanted += [[f"{name}.html", 400, None] for name in narrow]
    probe = _PROBE.replace("PAGES", json.dumps(wanted)).encode()
    found = queue.Queue()
    handler = type("Handler", (_Handler,), {"probe": probe, "found": found})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(SITE))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--enable-logging=stderr",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
        f"http://127.0.0.1:{server.server_port}/probe",
    ]
    log = tmp_path_factory.mktemp("log") / "stderr"
    with log.open("w") as stderr:
        browser = subprocess.Popen(command, stdout=stderr, stderr=stderr)
        try:
            body = found.get(timeout=240)
        except queue.Empty:
            pytest.fail(log.read_text(errors="replace")[-3000:])
        finally:
            browser.terminate()
            browser.wait(timeout=30)
            server.shutdown()
            server.server_close()
    said = re.findall(r'INFO:CONSOLE[^"]*"(.*)', log.read_text(errors="replace"))
    theme = ("[PST]", "Got invalid theme mode")  # what the theme reports as usual
    return json.loads(body), [text for text in said if not text.startswith(theme)]


def test_search_finds_words(browsed):
    found = {page["path"]: page for page in browsed[0]}
    krum = found["search.html?q=krum"]["results"]
    assert "Krum" in krum[0] and len(krum) >= 3, krum
    assert not found["search.html?q=no+such+word+qqxyz"]["results"]


def test_pages_show_pictures_and_formulas_and_fetch_nothing(browsed):
    for page in browsed[0]:
        assert page["settled"] and page["title"], page
        assert not page["broken"] and not page["elsewhere"], page
    found = {page["path"]: page for page in browsed[0]}
    assert found["auto_examples/index.html"]["images"] >= len(EXAMPLES)
    assert found["generated/skpoison.defenses.SpectralSignatures.html"]["maths"] > 0
    assert not browsed[1], browsed[1]


def test_pages_fit_a_telephone(browsed):
    wide = {p["path"]: p["wide"][:5] for p in browsed[0] if p["wide"]}
    assert not wide, wide
