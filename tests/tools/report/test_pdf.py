"""A page as PDF: printed whole by a browser that reaches nothing, or one line that says why not."""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner

from emcfsys_engine.commands.runs import report
from emcfsys_engine.errors import InputError, OutputError
from emcfsys_engine.tools.report.pdf import find_browser, save_pdf
from tests.hotfolder.test_recipe import project_in
from tests.hotfolder.test_series import SHARP, session

PRINTS = """
for word; do case $word in --print-to-pdf=*) made=${word#*=};; esac; done
echo "$@" > FOLDER/words; env > FOLDER/env; cp "${@: -1}" FOLDER/ 2>/dev/null
{ echo "%PDF-1.4"; echo "%%EOF"; } > "$made"
"""


def browser(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Put a program called chromium in front of all others."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    program = bin_folder / "chromium"
    program.write_text("#!/bin/bash\n" + script.replace("FOLDER", str(folder)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    return program


def page_in(folder: Path) -> Path:
    page = folder / "page.html"
    page.write_text("<h1>page</h1><details><summary>more</summary>folded</details>")
    return page


def test_a_browser_gets_a_profile_of_its_own_and_no_sandbox_only_as_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser(tmp_path, monkeypatch, PRINTS)
    save_pdf(page_in(tmp_path), tmp_path / "a b.pdf", tmp_path)
    assert (tmp_path / "a b.pdf").read_bytes() == b"%PDF-1.4\n%%EOF\n"
    words = (tmp_path / "words").read_text()
    assert "--headless" in words
    assert "--host-resolver-rules=MAP * ~NOTFOUND" in words
    assert ("--no-sandbox" in words) == (os.geteuid() == 0)
    environment = dict(
        line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line
    )
    own = Path(environment["HOME"])
    assert own.name.startswith("emcfsys-pdf-")
    assert f"--user-data-dir={own}/profile" in words
    assert not own.exists()  # it is taken away afterwards


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo No usable sandbox >&2; exit 1", "No usable sandbox"),
        ("exit 0", "it gives no reason"),
        ("for w; do case $w in --print-to-pdf=*) echo half > ${w#*=};; esac; done", "no reason"),
        ("exec sleep 600", "longer than 0.5 s"),
    ],
)
def test_a_browser_that_prints_nothing_is_told_in_one_line_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    program = browser(tmp_path, monkeypatch, script)
    page = page_in(tmp_path)
    with pytest.raises(OutputError) as told:
        save_pdf(page, tmp_path / "x.pdf", tmp_path, longest_s=0.5 if "sleep" in script else 60)
    assert why in str(told.value)
    assert str(program) in str(told.value)
    assert str(page) in str(told.value)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "x.pdf").exists()


def test_a_pdf_of_somebody_else_is_kept_and_one_of_ours_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser(tmp_path, monkeypatch, PRINTS)
    page, theirs = page_in(tmp_path), tmp_path / "theirs.pdf"
    theirs.write_text("a person's")
    with pytest.raises(InputError, match="is not as this program wrote it"):
        save_pdf(page, theirs, tmp_path)
    assert theirs.read_text() == "a person's"
    for _ in range(2):
        save_pdf(page, tmp_path / "ours.pdf", tmp_path)


def test_without_a_browser_nothing_is_written_and_one_line_tells_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session(project_in(tmp_path, SHARP))
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    words = [str(tmp_path), "--out", str(tmp_path / "s.html"), "--pdf", str(tmp_path / "s.pdf")]
    told = CliRunner().invoke(report, words)
    assert isinstance(told.exception, InputError)
    assert "apt install chromium" in str(told.exception)
    assert not [*tmp_path.glob("s.*")]


@pytest.fixture
def a_browser() -> str:
    try:
        return find_browser()
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A web server, and what it was asked for."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None: ...

    web = HTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=web.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{web.server_port}", asked
    web.shutdown()
    thread.join()
    web.server_close()


@pytest.mark.long
@pytest.mark.usefixtures("a_browser")
def test_a_session_is_printed_whole_and_asks_nobody_for_anything(
    tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    session(project_in(tmp_path, SHARP))
    pdf = tmp_path / "s.pdf"
    told = CliRunner().invoke(report, [str(tmp_path), "--pdf", str(pdf)])
    assert told.exit_code == 0, told.exception
    assert told.output.splitlines()[-1] == str(pdf)
    assert len(pdf.read_bytes()) > 20_000
    if (program := shutil.which("pdftotext")) is not None:
        os.spawnl(os.P_WAIT, program, program, str(pdf), str(tmp_path / "s.txt"))
        text = (tmp_path / "s.txt").read_text()
        assert "sharpness fell from" in text
        assert "group g1: 50 images" in text
        told_by = re.findall("points? breaks? a rule", text)
        assert len(told_by) == 3 * 3  # of all, and of the folded groups
    page = tmp_path / "web.html"
    address, asked = server
    page.write_text(f'<img src="{address}/a.png"><link rel=stylesheet href="{address}/b.css">')
    save_pdf(page, tmp_path / "web.pdf", tmp_path)
    assert asked == []
