"""emcfsys-engine: a table of commands, each imported when it is used, so that --help stays fast."""

import os
import signal
import sys
from importlib import import_module
from pathlib import Path

import click

from emcfsys_engine.errors import EmcfError, InputError, why_no_import

# name -> (module under emcfsys_engine.commands, one line for --help), in the order of a day's work
_COMMANDS: dict[str, tuple[str, str]] = {
    "new": ("data", "Make a project from a folder of images."),
    "demo": ("data", "Make the demo project, or play a microscope."),
    "check": ("data", "Name every fault of a project's images and labels."),
    "convert": ("convert", "Turn labels and images into other formats."),
    "plan": ("train", "Say what a training would do, why, and how long it takes."),
    "train": ("train", "Train as a project says."),
    "adapt": ("train", "Adapt a model to a changed microscope with a few corrected images."),
    "evaluate": ("evaluate", "Compare a model with masks."),
    "predict": ("predict", "Segment files, folders or globs with a model."),
    "suggest": ("predict", "Fill in label files for the images worth labelling next."),
    "watch": ("hotfolder", "Segment every image that arrives in the hot folder."),
    "review": ("hotfolder", "List the images that did not pass, and say what you think of them."),
    "recipe": ("hotfolder", "Lock what a hot folder does in one file, and show such a file."),
    "journal": ("hotfolder", "Check the record of every act on a hot folder's masks."),
    "measure": ("measure", "Measure the objects of masks."),
    "runs": ("runs", "List a project's runs, compare them, clean up."),
    "report": ("runs", "Make one page of a run, to send or keep."),
    "submit": (
        "submit",
        "Put a training, prediction, evaluation … into the queue.",
    ),
    "jobs": ("jobs", "List the jobs."),
    "cancel": ("jobs", "End jobs for good."),
    "stop": ("jobs", "Let running jobs finish early."),
    "pause": ("jobs", "Take jobs out of the way; they keep their place."),
    "resume": ("jobs", "Let paused or interrupted jobs go on."),
    "retry": ("jobs", "Run ended jobs again."),
    "move": ("jobs", "Change the order of waiting jobs."),
    "logs": ("jobs", "Show what a job says."),
    "daemon": ("system", "Start, stop and see the process that runs the jobs."),
    "models": ("models", "List the backbones, their weights and licences."),
    "export": ("models", "Hand a model to other programs."),
    "inspect": ("data", "Tell what a file is."),
    "doctor": ("doctor", "Check this machine and say what to mend."),
    "manual": ("manual", "Show the manual, a page a topic."),
    "schema": ("manual", "Print the JSON Schema of project.toml, for editors."),
}


class LazyGroup(click.Group):
    """Knows its commands by name and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command's module."""
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"emcfsys_engine.commands.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name the nearest one."""
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from emcfsys_engine.settings import nearest

            ctx.fail(f"{args[0]!r} is no command. {nearest(args[0], _COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="emcfsys-tui", prog_name="emcfsys-engine")
def cli() -> None:
    """Segment electron micrographs: check, train, predict, watch.

    Example: emcfsys-engine train projects/demo/project.toml
    """


def main() -> None:
    """Run the command line; whatever goes wrong becomes one line on stderr and an exit code."""
    _fill_closed_streams()
    try:
        cli.main(prog_name="emcfsys-engine", standalone_mode=False)
        _leave(0)
    except SystemExit as error:
        _leave(error.code)
    except EmcfError as error:
        _end(str(error), error.exit_code)
    except click.ClickException as error:
        _end_usage(error)
    except (click.Abort, KeyboardInterrupt):
        _end_cancelled()
    except BrokenPipeError:
        _leave(1)  # the reader of our output went away, as `| head` does
    except OSError as error:
        if isinstance(error, FileNotFoundError) and _is_nowhere():
            _end("the folder that you stand in is gone. Change to another one: cd", 2)
        place = (
            f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        )
        # Only the answer's own stream has no name.
        _end(f"{place}{error.strerror or error}", InputError.exit_code if place else 1)
    except ImportError as error:
        _end(why_no_import(error), 1)
    except MemoryError:
        _end("no memory is left for this. End what else runs here, or give it smaller images", 1)
    except RecursionError:
        _end("a file of the input is nested too deep", 1)


_closed: list[int] = []  # standard streams that this process began without


def _fill_closed_streams() -> None:
    """Open /dev/null where a standard stream is closed: no file of ours may take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _closed.append(number)
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _is_nowhere() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _end_cancelled() -> None:
    from emcfsys_engine.commands.saying import say

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # once more ends what still waits for a thread
    say("cancelled", err=True)
    _leave(130)


def _end(text: str, code: int) -> None:
    from emcfsys_engine.commands.saying import say_lines

    say_lines(f"emcfsys-engine: {text}", err=True)
    _leave(code)


def _end_usage(error: click.ClickException) -> None:
    from emcfsys_engine.commands.saying import say, say_lines

    context = getattr(error, "ctx", None)
    if context is not None:
        say_lines(f"{context.get_usage()}\nTry '{context.command_path} --help'.", err=True)
    say(f"Error: {' '.join(error.format_message().split())}", err=True)
    _leave(2)


def _leave(code: str | int | None) -> None:
    """End with this code, or 1 where the answer could not be written; stderr is told if it can be.

    A stdout that is closed took no answer. The interpreter would try once more to write what is
    unsaid, and end with 120.
    """
    if 1 in _closed and not code:
        _closed.remove(1)
        _end("stdout is closed: nobody got the answer", 1)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout and not code:
                _end(error.strerror or str(error), 1)
    sys.exit(code)


if __name__ == "__main__":
    main()
