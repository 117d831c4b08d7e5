"""daemon: started, told and stopped by its command."""

import json

import pytest

from emcfsys_engine.commands import system as daemon_commands
from emcfsys_engine.errors import DaemonError
from emcfsys_engine.jobs.control import DaemonLock
from tests.commands.made import say
from tests.jobs.conftest import Bench


def test_daemon_starts_tells_and_stops(home: Bench) -> None:
    assert json.loads(say(daemon_commands.daemon, "status", "--json"))["running"] is False
    assert "runs since" in say(daemon_commands.daemon, "start")
    status = json.loads(say(daemon_commands.daemon, "status", "--json"))
    assert status["running"] is True
    assert status["pid"] == DaemonLock(home.folder).status().pid
    say(daemon_commands.daemon, "restart")
    assert DaemonLock(home.folder).status().pid != status["pid"]
    assert say(daemon_commands.daemon, "stop") == "daemon stopped\n"
    assert say(daemon_commands.daemon, "stop") == "no daemon was running\n"


def test_daemon_in_the_foreground_refuses_beside_another(home: Bench) -> None:
    home.start()
    with pytest.raises(DaemonError, match="running already") as caught:
        say(daemon_commands.daemon, "run")
    assert caught.value.exit_code == 3
