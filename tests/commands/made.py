"""A command called as a person calls it."""

from click.testing import CliRunner


def say(command: object, *words: str) -> str:
    result = CliRunner().invoke(command, words, catch_exceptions=False)  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return result.stdout
