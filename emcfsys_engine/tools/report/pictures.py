"""Pictures in a page: previews of a training, masks laid over images, grain maps."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from emcfsys_engine.errors import printable
from emcfsys_engine.images.damaged_files import quiet_libraries
from emcfsys_engine.images.writers import companion
from emcfsys_engine.run.events import AnyEvent, ImageDone, PreviewSaved
from emcfsys_engine.run.folder import Run
from emcfsys_engine.tools.report.charts import picture

_KINDS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}
_MOST_PREVIEWS = 12
_MOST_OVERLAYS = 6
_LATEST = 500  # predictions that are looked for on the disk, which may be far away
_MOST_BYTES = 1 << 20  # a larger picture is made smaller: the page is to be sent by mail
_SIDE_PX = 900


def previews(run: Run, events: Sequence[AnyEvent], best_step: int | None) -> str:
    """Return pictures of the run's previews folder: of the best step, the last, and on the way."""
    if run.previews_folder.is_symlink():  # to pictures of somebody's, which none made here
        return ""
    try:
        found = [file for file in run.previews_folder.iterdir() if _is_picture(file)]
    except (FileNotFoundError, NotADirectoryError):
        return ""
    said = {Path(e.file).name: e for e in events if isinstance(e, PreviewSaved)}
    steps = {file: said[file.name].step if file.name in said else -1 for file in found}
    telling = _telling(sorted(set(steps.values())), best_step)
    # Files that no event speaks of come last, in the order of their names.
    found.sort(key=lambda file: (steps[file] not in telling, -steps[file], file.name))
    picked = sorted(found[:_MOST_PREVIEWS], key=lambda file: steps[file] != best_step)
    shown: list[str] = []
    for file in picked:
        event = said.get(file.name)
        words = f"{event.image}, step {event.step:,}" if event else file.name
        words += " (best)" if event and event.step == best_step else ""
        shown.append(embedded(file, words))
    legend = '<p class="soft">Left to right: image, truth, prediction, errors in red.</p>'
    grid = _grid(shown, len(found), "in the folder previews", kind="strips")
    return (legend if said and grid else "") + grid


def overlays(events: Sequence[AnyEvent]) -> str:
    """Return some predictions laid over their images, evenly picked among those written."""
    done = [event for event in events if isinstance(event, ImageDone)][-_LATEST:]
    files = [companion(Path(event.mask), "overlay") for event in done]
    there = [file for file in files if file.is_file()]
    stride = max(1, len(there) // _MOST_OVERLAYS)
    picked = there[::stride][:_MOST_OVERLAYS]
    return _grid([embedded(file, file.name) for file in picked], len(there), "beside the masks")


def _telling(steps: Sequence[int], best_step: int | None) -> set[int]:
    """Return the steps that show how the training went: best, first, middle, last."""
    chosen = {steps[0], steps[len(steps) // 2], steps[-1]} if steps else set[int]()
    return chosen if best_step is None else chosen | {best_step}


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in _KINDS and not file.name.startswith(".") and file.is_file()


def _grid(shown: Sequence[str], total: int, where: str, kind: str = "pictures") -> str:
    if not shown:
        return ""
    more = total - len(shown)
    words = f'<p class="soft">and {more:,} more {where}</p>' if more > 0 else ""
    return f'<div class="{kind}">{"".join(shown)}</div>{words}'


def embedded(file: Path, caption: str) -> str:
    """Return a picture as it lies, or smaller; a damaged one is named in its place."""
    try:
        content, kind = file.read_bytes(), _KINDS[file.suffix.lower()]
        with quiet_libraries(), Image.open(io.BytesIO(content)) as opened:
            opened.load()
            if len(content) > _MOST_BYTES:
                content, kind = smaller(opened), "png"
    except (OSError, ValueError, SyntaxError) as error:
        return picture(b"", "png", f"{caption} cannot be shown: {printable(str(error))}")
    return picture(content, kind, caption)


def smaller(opened: Image.Image) -> bytes:
    """Return a picture as a PNG of a page's size."""
    small = opened.convert("RGB")
    small.thumbnail((_SIDE_PX, _SIDE_PX))
    packed = io.BytesIO()
    small.save(packed, "PNG", optimize=True)
    return packed.getvalue()
