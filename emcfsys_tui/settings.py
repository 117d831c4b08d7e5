"""~/.config/emcfsys/interface.toml: the person's own keys, theme and picture settings."""

from typing import Any

import msgspec
import tomli

from emcfsys_engine.project_faults import nearest
from emcfsys_engine.settings import config_file

GRAPHICS = ("sixel", "kitty")
PICTURES = ("grey", "colour", *GRAPHICS)
_KEYS = ("theme", "bell", "pictures", "keys")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How the interface looks and which keys it listens to."""

    theme: str = ""
    bell: bool = True
    # Half-blocks: grey with coloured overlays, or all in true colour; or the terminal's own pixels.
    pictures: str = "grey"
    keys: dict[str, str] = {}
    faults: tuple[str, ...] = ()


def load_settings() -> Settings:
    """Read the settings; what is wrong in them is told, and left out."""
    file = config_file().with_name("interface.toml")
    try:
        document: dict[str, Any] = tomli.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError) as error:
        return Settings(faults=(f"{file}: {error}",))
    faults = [
        f"{file}: {key}: is no setting. {nearest(key, _KEYS)}"
        for key in document
        if key not in _KEYS
    ]
    theme, bell = document.get("theme", ""), document.get("bell", True)
    pictures, keys = document.get("pictures", "grey"), document.get("keys", {})
    if not isinstance(theme, str):
        faults.append(f'{file}: theme: is no text. Write theme = "emcfsys-dark"')
        theme = ""
    if not isinstance(bell, bool):
        faults.append(f"{file}: bell: is neither true nor false")
        bell = True
    if pictures not in PICTURES:
        faults.append(f"{file}: pictures: {nearest(str(pictures), PICTURES)}")
        pictures = "grey"
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
        faults.append(f'{file}: keys: write lines like "runs.mark" = "m"')
        keys = {}
    return Settings(theme=theme, bell=bell, pictures=str(pictures), keys=keys, faults=tuple(faults))
