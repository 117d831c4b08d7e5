"""Keys in one line each: every one has an id, so that a person can give it another key."""

from textual.binding import Binding


def shown(
    keys: str, action: str, word: str, name: str, about: str = "", face: str | None = None
) -> Binding:
    """Return a key that stands in the line below; `face` is how it is written there."""
    return Binding(keys, action, word, key_display=face, tooltip=about, id=name)


def quiet(
    keys: str, action: str, word: str, name: str, about: str = "", face: str | None = None
) -> Binding:
    """Return a key that help and palette tell of."""
    return Binding(keys, action, word, show=False, key_display=face, tooltip=about, id=name)
