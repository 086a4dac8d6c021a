"""The report's page in a headless browser: ``make check-page``.

    python tests/browser/check_page.py BROWSER FILE.safetensors [--pictures FOLDER]

Opens the page of a file, sorts and searches as a reader would, and fails on any error that the
browser reports. With a folder it also takes pictures at three widths, to be looked at.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import subprocess
import tempfile
from pathlib import Path

from tersor.cli.report import report_page

WIDTHS = (390, 900, 1400)
# What a reader does, and what the page shows then.
_READER = """
<script>
"use strict";
const errors = [];
addEventListener("error", event => errors.push(event.message));
addEventListener("load", () => {
  const body = document.getElementById("layers").tBodies[0];
  const names = () => [...body.rows].filter(row => !row.hidden).map(row => row.cells[0].innerText);
  const click = column => document.querySelectorAll("#layers th button")[column].click();
  const seen = {first: names()};
  click(1); seen.largest = [...body.rows].map(row => row.cells[1].innerText);
  click(1); seen.smallest = [...body.rows].map(row => row.cells[1].innerText);
  click(0); seen.named = names();
  const search = document.getElementById("search");
  search.value = seen.first[0]; search.dispatchEvent(new Event("input"));
  seen.found = names();
  search.value = ""; search.dispatchEvent(new Event("input"));
  seen.all = names();
  for (const layer of document.querySelectorAll("details")) layer.open = true;
  seen.empty = [...document.querySelectorAll("svg path")]
    .filter(path => path.getBoundingClientRect().height === 0).length;
  seen.figures = document.querySelectorAll("svg path").length;
  seen.wide = document.documentElement.scrollWidth > innerWidth;
  seen.errors = errors;
  const result = document.createElement("pre");
  result.id = "seen"; result.textContent = JSON.stringify(seen);
  document.body.append(result);
});
</script>
</head>
"""


def run(browser: str, page: Path, *options: str) -> str:
    """What the browser prints."""
    # Sandboxes need privileges that containers lack; the page is ours.
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    done = subprocess.run(
        [*command, *options, page.as_uri()], check=True, capture_output=True, text=True
    )
    return done.stdout


def numbers(texts: list[str]) -> list[int]:
    return [int(text.replace(",", "")) for text in texts]


def check(browser: str, page: Path, width: int) -> None:
    """Fails where the page does not do what it should at a width."""
    tried = page.with_name("tried.html")
    tried.write_text(page.read_text("utf-8").replace("</head>\n", _READER, 1), "utf-8")
    shown = run(browser, tried, "--dump-dom", f"--window-size={width},1200")
    found = re.search(r'<pre id="seen">(.*?)</pre>', shown, re.DOTALL)
    assert found, "the page's own script did not run"
    seen = json.loads(html.unescape(found[1]))
    assert seen["errors"] == [], seen["errors"]
    assert numbers(seen["largest"]) == sorted(numbers(seen["largest"]), reverse=True)
    assert numbers(seen["smallest"]) == sorted(numbers(seen["smallest"]))
    assert len(seen["first"]) > 1
    assert sorted(seen["named"]) == sorted(seen["first"]) == sorted(seen["all"])
    assert seen["found"][0] == seen["first"][0]
    assert len(seen["found"]) < len(seen["first"])
    assert seen["figures"] >= len(seen["first"])
    assert seen["empty"] == 0, f"{seen['empty']} of {seen['figures']} figures are empty"
    assert not seen["wide"], f"the page is wider than a screen of {width}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("browser")
    parser.add_argument("file", type=Path)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        report_page(options.file, page, against=None, profile=False, force=False)
        for width in WIDTHS:
            check(options.browser, page, width)
            if options.pictures:
                options.pictures.mkdir(parents=True, exist_ok=True)
                picture = (options.pictures / f"report-{width}.png").resolve()
                run(options.browser, page, f"--screenshot={picture}", f"--window-size={width},2400")
    print(f"{options.file}: the page works at widths of {', '.join(map(str, WIDTHS))}")


if __name__ == "__main__":
    main()
