"""runs clean: space taken back from ended runs."""

from pathlib import Path

import click
import msgspec


@click.command()
@click.argument("place", type=click.Path(path_type=Path), default=".")
@click.option(
    "--what",
    default="checkpoints,previews,temporary",
    show_default=True,
    help="Of checkpoints, previews, temporary, companions (overlays, probabilities).",
)
@click.option("--older-than", type=click.FloatRange(min=0), help="Only runs ended DAYS ago.")
@click.option("--keep", type=click.IntRange(min=0), default=0, help="Leave the newest N runs.")
@click.option("--yes", is_flag=True, help="Remove it; without, only say what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def clean(
    place: Path, what: str, older_than: float | None, keep: int, yes: bool, as_json: bool
) -> None:
    """Say what the runs of PLACE (a project or predictions) could give back; --yes removes it.

    Models, masks, settings and events stay, and so does every run that lives, waits or can be
    resumed. A run without its checkpoint can no longer be extended.

    Example: emcfsys-engine runs clean projects/demo --older-than 30 --yes
    """
    from emcfsys_engine.tools.clean_runs import clean_runs, parse_what

    found = clean_runs(
        place, what=parse_what(what), older_than_days=older_than, keep=keep, remove=yes
    )
    if as_json:
        document = msgspec.to_builtins(found)
        click.echo(msgspec.json.encode({**document, "num_bytes": found.num_bytes}).decode())
    else:
        click.echo(found.text)
    raise SystemExit(1 if found.failed else 0)
