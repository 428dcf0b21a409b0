"""Pages in a headless Chromium: without a network, dark, and as wide as a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in _NAMES if (path := shutil.which(name)) is not None), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
_WATCH = "<head><script>const errors = []; onerror = (e) => errors.push(String(e));</script>"
_ANSWER = re.compile(r'<pre id="answer">(.*?)</pre>', re.DOTALL)


def on_a_phone(page: str, folder: Path, script: str, milliseconds: int = 5000) -> dict[str, Any]:
    """What a script measures on a page.

    Args:
        page: HTML.
        folder: for the page and the browser's profile.
        script: runs at the end of the page and assigns an object to ``answer``; errors so far are in
            ``errors``.
        milliseconds: of the page's own time.
    """
    probe = f"""<script>
{script}
const entry = {{ id: "answer", textContent: JSON.stringify(answer) }};
document.body.append(Object.assign(document.createElement("pre"), entry));
</script></body>"""
    path = folder / "page.html"
    path.write_text(page.replace("<head>", _WATCH).replace("</body>", probe))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=390,844", "--dump-dom"]
    options += ["--blink-settings=preferredColorScheme=0", f"--virtual-time-budget={milliseconds}"]
    browser = subprocess.run([CHROMIUM, *options, path.as_uri()], capture_output=True, text=True, timeout=120)
    answer: dict[str, Any] = json.loads(html.unescape(_ANSWER.search(browser.stdout)[1]))
    return answer
