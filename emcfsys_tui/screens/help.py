"""What every key does on the screen beneath."""

from textual.screen import Screen

from emcfsys_tui.screens.ask import TextScreen

_LOOPS = """The loop: 1 Data → 2 Train → 3 Runs → 4 Hot folder. 5 Jobs and 6 Models watch over it.
Jobs belong to the daemon: quitting, a lost connection or a crash of this screen never stops one.
Every key can be changed: name its id in ~/.config/emcfsys/interface.toml, under [keys]."""


class HelpScreen(TextScreen):
    """A page of keys, made from the bindings that work here."""

    def __init__(self, beneath: Screen[object]) -> None:
        super().__init__("Keys", help_text(beneath))


def help_text(screen: Screen[object]) -> str:
    """Return one line a key that works on this screen now."""
    shown: dict[str, tuple[str, str, str]] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        if not binding.description or not active.enabled:
            continue
        key = screen.app.get_key_display(binding)
        name = binding.id or binding.action
        if name in shown:
            keys = shown[name][0]
            key = keys if key in keys.split(" ") else f"{keys} {key}"
        shown[name] = (key, binding.tooltip or binding.description, binding.id or "")
    width = max((len(key) for key, _, _ in shown.values()), default=0)
    about = max((len(text) for _, text, _ in shown.values()), default=0)
    lines = [f"{key:<{width}}  {text:<{about}}  {name}" for key, text, name in shown.values()]
    return "\n".join([*_LOOPS.split("\n"), "", *lines])
