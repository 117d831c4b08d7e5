"""An optional systemd user unit: the daemon starts with the machine and outlives a logout."""

import getpass
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from emcfsys_engine.errors import DaemonError
from emcfsys_engine.files import free_name, write_whole

UNIT = "emcfsys.service"
_TIMEOUT_S = 20.0
_TEXT = """\
# Written by: emcfsys-engine daemon install
[Unit]
Description=EMCFsys job daemon

[Service]
ExecStart={command}
Environment={environment}
# Only the daemon is ended with the unit: its jobs go on and are found again.
KillMode=process
OOMPolicy=continue
Restart=on-failure
# 2: the queue needs a person; 3: a daemon runs already.
RestartPreventExitStatus=2 3
RestartSec=5

[Install]
WantedBy=default.target
"""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What was written, and what a person should know."""

    file: Path
    is_enabled: bool
    notes: tuple[str, ...]


def install(folder: Path) -> Installed:
    """Write the unit for a state folder and enable it; says plainly what is not as it should be.

    Another one that is there, maybe changed by a person, is kept beside it.

    Raises: DaemonError if the unit cannot be written.
    """
    file = unit_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = unit_text(folder).encode()
        kept = _put_aside(file, content)
        write_whole(file, content)
    except OSError as error:
        raise DaemonError(f"{file}: cannot be written: {error.strerror}.") from None
    notes = [f"{file} was another one: it is kept as {kept}"] if kept else []
    is_enabled = False
    for words in (("daemon-reload",), ("enable", UNIT)):
        trouble = _systemctl(*words)
        is_enabled = not trouble
        if trouble:
            notes.append(f"systemctl --user {words[0]}: {trouble}. Run it after a login.")
            break
    if not lingers():
        who = getpass.getuser()
        notes.append(
            "Linger is off: the daemon starts with your first login, and systemd may end it and its"
            f" jobs with your last logout. Run: loginctl enable-linger {who}"
        )
    return Installed(file=file, is_enabled=is_enabled, notes=tuple(notes))


def _put_aside(file: Path, content: bytes) -> str:
    """Rename what is there with another content; return its name, "" where nothing had to be."""
    if not os.path.lexists(file) or (file.is_file() and file.read_bytes() == content):
        return ""
    aside = free_name(file.parent, f"{file.name}.before-{{}}")
    file.rename(aside)
    return aside.name


def unit_file() -> Path:
    """Return where the user's unit is."""
    base = os.environ.get("XDG_CONFIG_HOME")
    home = Path(base) if base and Path(base).is_absolute() else Path.home() / ".config"
    return home / "systemd/user" / UNIT


def unit_text(folder: Path) -> str:
    """Return the unit that serves a state folder with this interpreter."""
    words = (sys.executable, "-m", "emcfsys_engine.jobs.daemon", str(folder))
    path = _quoted(f"PATH={os.environ.get('PATH', '/usr/bin:/bin')}", in_command=False)
    return _TEXT.format(command=" ".join(_quoted(word) for word in words), environment=path)


def lingers() -> bool:
    """Tell whether the user's processes outlive a logout, as far as systemd can say."""
    program = shutil.which("loginctl")
    if program is None:
        return False
    try:
        answer = subprocess.run(
            [program, "show-user", getpass.getuser(), "--property=Linger", "--value"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.stdout.strip() == "yes"


def kills_at_logout() -> bool:
    """Tell whether this machine ends its users' processes when they log out, as far as it says."""
    program = shutil.which("busctl")
    if program is None:
        return False
    place = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
    try:
        answer = subprocess.run(
            [program, "get-property", *place, "KillUserProcesses"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.stdout.strip() == "b true"


def _systemctl(*words: str) -> str:
    """Return what went wrong; empty if nothing did."""
    program = shutil.which("systemctl")
    if program is None:
        return "there is no systemd here"
    try:
        answer = subprocess.run(
            [program, "--user", *words],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = answer.stderr.strip().splitlines()
    return "" if answer.returncode == 0 else (lines[0] if lines else "it failed").rstrip(".")


def _quoted(word: str, *, in_command: bool = True) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped.replace("$", "$$") if in_command else escaped}"'
