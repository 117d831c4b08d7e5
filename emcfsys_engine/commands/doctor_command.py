"""doctor: this machine, line by line."""

import json

import click

from emcfsys_engine.commands.diagnosis import examine_jobs
from emcfsys_engine.commands.doctor import examine
from emcfsys_engine.errors import printable


@click.command()
@click.argument("project", required=False, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(project: str | None, as_json: bool) -> None:
    """Check this machine and say what to mend; PROJECT's disk too, if named.

    Example: emcfsys-engine doctor
    """
    from emcfsys_engine.learn.hardware import examine_torch

    lines = [*examine(project), *examine_torch(), *examine_jobs()]
    if as_json:
        rows = [
            {"what": line.what, "state": line.state, "found": line.found, "remedy": line.remedy}
            for line in lines
        ]
        click.echo(json.dumps({"lines": rows}))
    else:
        width = max(len(line.what) for line in lines)
        for line in lines:
            remedy = f" → {line.remedy}" if line.remedy else ""
            click.echo(printable(f"{line.state:<4}  {line.what:<{width}}  {line.found}{remedy}"))
    raise SystemExit(1 if any(line.state == "fail" for line in lines) else 0)
