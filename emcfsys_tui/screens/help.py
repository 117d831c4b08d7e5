"""What every key does on the screen beneath."""

from textual.screen import Screen

from emcfsys_tui.screens.dialogs import TextScreen

_LOOPS = """The loop: 1 Data → 2 Train → 3 Runs → 4 Hot folder. 5 Jobs and 6 Models watch over it.
Jobs belong to the daemon: quitting, a lost connection or a crash of this screen never stops one.
Every key can be changed: name its id in ~/.config/emcfsys/interface.toml, under [keys]."""


class HelpScreen(TextScreen):
    """A page of keys, made from the bindings that work here."""

    def __init__(self, beneath: Screen[object]) -> None:
        super().__init__("Keys", help_text(beneath))


def help_text(screen: Screen[object]) -> str:
    """Return one line a key that works on this screen now, the ones of the footer first."""
    lines: dict[str, tuple[bool, str, str]] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        if not binding.description or not active.enabled or not binding.id:
            continue
        key = screen.app.get_key_display(binding)
        known = lines.get(binding.id)
        if known is not None:
            key = known[1] if key in known[1].split(" ") else f"{known[1]} {key}"
        lines[binding.id] = (binding.show, key, binding.tooltip or binding.description)
    width = max((len(key) for _, key, _ in lines.values()), default=0)
    about = max((len(text) for _, _, text in lines.values()), default=0)
    has_room = screen.size.width >= width + about + 40
    shown = sorted(lines.items(), key=lambda item: not item[1][0])
    return "\n".join(
        [
            *_LOOPS.split("\n"),
            "",
            *(
                f"{key:<{width}}  {text:<{about}}  {name}"
                if has_room
                else f"{key:<{width}}  {text}"
                for name, (_, key, text) in shown
            ),
        ]
    )
