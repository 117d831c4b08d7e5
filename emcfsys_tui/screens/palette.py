"""The palette of all commands; a hurried second Enter is no second choice."""

from textual.command import CommandPalette
from textual.widgets import Input


class Palette(CommandPalette):
    """Textual's palette, which closes once."""

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Leave a key alone that comes after the choice.

        Textual would run the command again, and close the page below, of which there may be none.
        """
        if not self.is_current:
            event.prevent_default()
