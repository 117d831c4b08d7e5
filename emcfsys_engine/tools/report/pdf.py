"""A page as PDF, printed by a browser of this machine: without a window, a network or a profile.

Libraries that make PDF of HTML (WeasyPrint, wkhtmltopdf) draw the page's charts as black shapes.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from emcfsys_engine.errors import InputError, OutputError
from emcfsys_engine.files import remedy_of, write_whole
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import replace_own

_BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
    "microsoft-edge", "microsoft-edge-stable", "brave-browser",
)  # fmt: skip
_LONGEST_S = 300.0
_WORDS = (
    "--headless", "--disable-gpu", "--no-first-run", "--no-default-browser-check",
    "--disable-extensions", "--disable-sync", "--disable-background-networking",
    "--disable-component-update", "--disable-default-apps", "--disable-dev-shm-usage",
    "--password-store=basic", "--no-pdf-header-footer", "--print-to-pdf-no-header",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # nothing is looked up, nor asked for
)  # fmt: skip


def find_browser() -> str:
    """Return the program that prints pages. Raises: InputError where there is none."""
    for name in _BROWSERS:
        if (program := shutil.which(name)) is not None:
            return program
    what = "needs Chromium, Chrome, Edge or Brave, and finds none of them here"
    remedy = "Install one, as with: apt install chromium; or print the page from any browser"
    raise InputError("--pdf", what, remedy)


def save_pdf(page: Path, file: Path, folder: Path, longest_s: float = _LONGEST_S) -> None:
    """Print a page of what a folder holds into a file; one that is not ours is kept.

    Units: the browser is ended after `longest_s` seconds.
    Raises: InputError for such a one, or where no browser is; OutputError.
    """
    content = _printed(find_browser(), page, longest_s)
    try:
        replace_own(file, OutputBook(folder), lambda place: write_whole(place, content))
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise OutputError(file, what, remedy_of(error), errno=error.errno or 0) from None


def _printed(program: str, page: Path, longest_s: float) -> bytes:
    with tempfile.TemporaryDirectory(prefix="emcfsys-pdf-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        shown, made = place / "page.html", place / "page.pdf"
        # Older browsers print what is folded as it is: folded.
        shown.write_bytes(page.read_bytes().replace(b"<details>", b"<details open>"))
        words = [program, *_WORDS, f"--user-data-dir={place / 'profile'}", f"--print-to-pdf={made}"]
        if os.geteuid() == 0:
            words.append("--no-sandbox")  # it refuses to run as root otherwise
        told = _run([*words, shown.as_uri()], place, longest_s)
        content = made.read_bytes() if made.is_file() else b""
    if not content.startswith(b"%PDF-") or b"%%EOF" not in content[-64:]:
        remedy = f"Print it from any browser: {page}"
        what = f"{program} printed nothing: {told or 'it gives no reason'}"
        raise OutputError("--pdf", what, remedy)
    return content


def _run(words: list[str], home: Path, longest_s: float) -> str:
    """Run a browser that knows nothing of the person's own; return the last that it said."""
    own = {"HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"}
    environment = {**os.environ, **dict.fromkeys(own, str(home)), "TMPDIR": str(home)}
    log = home / "log.txt"
    try:
        with log.open("wb") as stream:
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=environment,
                start_new_session=True,
            )
    except OSError as error:
        return f"cannot be started: {error.strerror}"
    try:
        child.wait(longest_s)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # its helpers, too
        child.wait()
        return f"it took longer than {longest_s:g} s"
    lines = log.read_text("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
