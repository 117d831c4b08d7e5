"""Pictures of a run inside its report: previews of validations, overlays of predictions."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from emcfsys_engine.errors import printable
from emcfsys_engine.events import AnyEvent, ImageDone
from emcfsys_engine.images.quiet import quiet_libraries
from emcfsys_engine.run import Run
from emcfsys_engine.tools.report_html import picture

_KINDS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}
_MOST_PREVIEWS = 12
_MOST_OVERLAYS = 6
_MOST_BYTES = 1 << 20  # a larger picture is made smaller: the page is to be sent by mail
_SIDE_PX = 900


def previews(run: Run) -> str:
    """Return the newest pictures of the run's previews folder, newest first."""
    try:
        found = [file for file in run.previews_folder.iterdir() if _is_picture(file)]
    except (FileNotFoundError, NotADirectoryError):
        return ""
    dated = sorted(((file.stat().st_mtime, file.name, file) for file in found), reverse=True)
    shown = [_embedded(file, file.name) for _, _, file in dated[:_MOST_PREVIEWS]]
    return _grid(shown, len(found), "in the folder previews")


def overlays(events: Sequence[AnyEvent]) -> str:
    """Return some predictions laid over their images, evenly picked among those written."""
    done = [event for event in events if isinstance(event, ImageDone)]
    files = [Path(event.mask).with_suffix(".overlay.png") for event in done]
    there = [file for file in files if file.is_file()]
    stride = max(1, len(there) // _MOST_OVERLAYS)
    picked = there[::stride][:_MOST_OVERLAYS]
    return _grid([_embedded(file, file.name) for file in picked], len(there), "beside the masks")


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in _KINDS and not file.name.startswith(".") and file.is_file()


def _grid(shown: Sequence[str], total: int, where: str) -> str:
    if not shown:
        return ""
    more = total - len(shown)
    words = f'<p class="soft">and {more:,} more {where}</p>' if more > 0 else ""
    return f'<div class="pictures">{"".join(shown)}</div>{words}'


def _embedded(file: Path, caption: str) -> str:
    """Return a picture as it lies, or smaller; a damaged one is named in its place."""
    try:
        content, kind = file.read_bytes(), _KINDS[file.suffix.lower()]
        with quiet_libraries(), Image.open(io.BytesIO(content)) as opened:
            opened.load()
            if len(content) > _MOST_BYTES:
                content, kind = _smaller(opened), "png"
    except (OSError, ValueError, SyntaxError) as error:
        return picture(b"", "png", f"{caption} cannot be shown: {printable(str(error))}")
    return picture(content, kind, caption)


def _smaller(opened: Image.Image) -> bytes:
    small = opened.convert("RGB")
    small.thumbnail((_SIDE_PX, _SIDE_PX))
    packed = io.BytesIO()
    small.save(packed, "PNG", optimize=True)
    return packed.getvalue()
