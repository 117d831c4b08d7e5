"""report: a run as one page to send or to keep."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The page; else RUN/report.html.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report(run: Path, out: Path | None, as_json: bool) -> None:
    """Write RUN (a run's folder) as one HTML page that needs no network: curves, classes, settings.

    Example: emcfsys-engine report projects/demo/runs/run-0001 --out demo.html
    """
    from emcfsys_engine.run.folder import open_run
    from emcfsys_engine.tools.report.page import write_report

    opened = open_run(run)
    file = write_report(opened, out)
    click.echo(json.dumps({"run": opened.id, "page": str(file.absolute())}) if as_json else file)
