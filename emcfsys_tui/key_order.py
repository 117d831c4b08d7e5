"""Keys that come in one write act one after the other, each on what the one before it left.

Textual gives a key to the widget that has the focus when the key comes, and the key then climbs,
message queue by message queue, to the application, where the bindings act. On a slow line several
keys come in one write: Down, Down, 4. The 4 is given out before Down has moved the focus, and acts
somewhere else. Here the next key waits until the one before has climbed to the top.
"""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any

from textual import events
from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual._xterm_parser import XTermParser
from textual.app import App, ScreenStackError
from textual.driver import Driver
from textual.message_pump import MessagePump

from emcfsys_tui.lean_output import LeanDriver


class EscapeParser(XTermParser):
    """Reads Esc and a key that came in one packet as these two keys.

    A terminal writes Alt+x as Esc, x. Textual reads that as Alt+x, and of Esc with Enter or a sign
    loses the Esc. We bind no Alt key, and who types Esc, x on a slow line means that.
    """

    def _sequence_to_key_events(self, sequence: str, alt: bool = False) -> Iterable[events.Key]:
        is_sign = isinstance(ANSI_SEQUENCES_KEYS.get(sequence), str)  # Esc, 6 as § of some Macs
        if alt or (is_sign and len(sequence) == 2):
            yield events.Key("escape", "\x1b")
            sequence = sequence[-1]
        yield from super()._sequence_to_key_events(sequence)


_PATIENCE_S = 1.0  # a widget that goes away takes its queue, and with it the sign we wait for


class OrderedKeysApp(App[None]):
    """An application whose keys and pastes act in the order in which they came."""

    def __init__(self) -> None:
        super().__init__()
        self._typed: deque[events.Key | events.Paste] = deque()  # the first is being handled
        self.typed_at = 0.0  # when the newest came, of time.monotonic()

    def get_driver_class(self) -> type[Driver]:
        """Return Textual's driver, with our own reading of Esc, and fewer bytes to the terminal."""
        driver = super().get_driver_class()
        module: Any = sys.modules[driver.__module__]
        if not hasattr(module, "XTermParser"):  # no real terminal
            return driver
        module.XTermParser = EscapeParser
        return type("LeanTerminalDriver", (LeanDriver, driver), {})

    async def on_event(self, event: events.Event) -> None:
        """Hold a key until those before it have acted."""
        if event.is_forwarded or not isinstance(event, events.Key | events.Paste):
            await super().on_event(event)
            return
        self.typed_at = time.monotonic()
        if isinstance(event, events.Paste):
            event = events.Paste(_plain(event.text))
        self._typed.append(event)
        if len(self._typed) == 1:
            await self._handle_first()
        else:
            self.set_timer(_PATIENCE_S, partial(self._go_on, self._typed[0]))

    async def _handle_first(self) -> None:
        event = self._typed[0]
        target = self.focused or self.screen  # where Textual is about to give it
        await super().on_event(event)
        self._climb(event, target)

    def _climb(self, event: events.Event, pump: MessagePump) -> None:
        """Follow a key: each queue keeps its order, so the key has left where we come."""
        if pump is self:
            step = partial(self._settle, event)
        else:
            step = partial(self._climb, event, pump._parent or self)
        if not pump.call_later(step):  # it goes away, and its queue with it
            step()

    def _settle(self, event: events.Event) -> None:
        """Its binding has acted; a screen that it opened takes its place first."""
        with contextlib.suppress(ScreenStackError):  # it was the key that ends the program
            self.screen.call_later(partial(self.call_later, partial(self._go_on, event)))

    async def _go_on(self, event: events.Event) -> None:
        if self._typed and self._typed[0] is event:
            self._typed.popleft()
            if self._typed:
                await self._handle_first()


def _plain(text: str) -> str:
    """Return what was pasted without what would steer the terminal that shows it."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")
