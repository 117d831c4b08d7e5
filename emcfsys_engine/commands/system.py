"""daemon start|stop|status|run|restart|install: the process that starts and supervises jobs."""

import click

from emcfsys_engine.commands.saying import say, say_json
from emcfsys_engine.errors import DaemonError
from emcfsys_engine.jobs import systemd
from emcfsys_engine.jobs.control import (
    DaemonStatus,
    daemon_status,
    ensure_daemon,
    restart_daemon,
    stop_daemon,
)
from emcfsys_engine.jobs.daemon import serve
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.jobs.state_folder import network_type, prepare, state_folder
from emcfsys_engine.launch.processes import MOST_GRACES
from emcfsys_engine.settings import load_config
from emcfsys_engine.text import moment

_SLACK_S = 60.0


@click.group()
def daemon() -> None:
    """Start, stop and ask after the job daemon; its end leaves the jobs running.

    Example: emcfsys-engine daemon status
    """


@daemon.command()
def start() -> None:
    """Start the daemon, detached from this terminal.

    Example: emcfsys-engine daemon start
    """
    say(_sentence(ensure_daemon()))


@daemon.command()
@click.option("--jobs", is_flag=True, help="Its local jobs too: they save and can be resumed.")
def stop(jobs: bool) -> None:
    """End the daemon; its jobs go on, and the next daemon finds them again.

    Example: emcfsys-engine daemon stop
    """
    wait_s = _SLACK_S + (MOST_GRACES * load_config().jobs.grace_s if jobs else 0.0)
    was_running = stop_daemon(jobs=jobs, wait_s=wait_s)
    say("daemon stopped" if was_running else "no daemon was running")


@daemon.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Tell whether the daemon runs, and which process it is.

    Example: emcfsys-engine daemon status --json
    """
    found = daemon_status()
    if as_json:
        say_json(found)
        return
    say(_sentence(found))
    if kind := network_type(state_folder()):
        say(f"The queue is on a {kind} share: slower, and no other host may use it", err=True)


@daemon.command()
def run() -> None:
    """Be the daemon in this terminal, until Ctrl+C; its jobs go on after it.

    Example: emcfsys-engine daemon run
    """
    with Queue.open() as queue:
        serve(queue)


@daemon.command()
def restart() -> None:
    """Start the daemon anew, with the code as it is now; its jobs go on.

    Example: emcfsys-engine daemon restart
    """
    say(_sentence(restart_daemon()))


@daemon.command()
def install() -> None:
    """Let systemd start the daemon with the machine, as a unit of yours; needs no root.

    Example: emcfsys-engine daemon install
    """
    made = systemd.install(prepare(state_folder()))
    for note in made.notes:
        say(note, err=True)
    say(made.file)
    if not made.is_enabled:
        raise DaemonError("The unit is written, but systemd did not take it up.")


def _sentence(found: DaemonStatus) -> str:
    if not found.running or found.started is None:
        if found.host:
            return f"the daemon of {found.folder} runs on {found.host}, not here"
        return "no daemon runs; submitting a job starts it"
    since = moment(found.started, "%F %H:%M:%S")
    return f"daemon {found.version} runs since {since} (process {found.pid}, {found.folder})"
