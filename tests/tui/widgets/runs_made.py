"""Runs with previews."""

from PIL import Image

from emcfsys_engine.run.events import PreviewSaved
from emcfsys_engine.run.folder import Run
from tests.tui.conftest import say

_ORANGE, _RED = (230, 159, 0), (220, 50, 47)


def preview(run: Run, step: int, image: str = "cell_1000") -> None:
    """Write a strip of four panels of 64 px: grey, an orange half, the same again, red."""
    strip = Image.new("RGB", (4 * 64 + 6, 64), (90, 90, 90))
    strip.paste(_ORANGE, (66, 0, 98, 64))
    strip.paste(_ORANGE, (132, 0, 164, 64))
    strip.paste(_RED, (198, 0, 262, 64))
    file = run.previews_folder / f"step-{step:07}-{image}.png"
    file.parent.mkdir(exist_ok=True)
    strip.save(file)
    say(run, PreviewSaved(step=step, image=image, file=str(file.relative_to(run.folder))))
