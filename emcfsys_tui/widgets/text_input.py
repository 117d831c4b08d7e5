"""A line of text that keeps every key of a burst, as slow connections deliver them."""

from typing import ClassVar

from textual import events
from textual.binding import Binding
from textual.widgets import Input


class TextInput(Input):
    """An Input whose editing keys act at once, in the order in which they were typed.

    Textual's Input inserts a character as soon as the key reaches it, but backspace, the arrows and
    enter are bindings, which run only once the key has bubbled up to the application, message queue
    by message queue. When several keys come in one read, the characters typed after a backspace are
    in before it deletes: it takes the newest of them.
    """

    _EDITS: ClassVar[dict[str, str]] = {
        key: binding.action
        for binding in Input.BINDINGS
        if isinstance(binding, Binding)
        for key in binding.key.split(",")
    }

    async def on_key(self, event: events.Key) -> None:
        """Edit now."""
        action = self._EDITS.get(event.key)
        if action is not None and not event.is_printable:
            event.stop()
            event.prevent_default()
            await self.run_action(action)
