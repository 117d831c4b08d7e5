"""The engine as the interface sees it: what a prediction has made so far."""

from contextlib import suppress
from pathlib import Path

from emcfsys_engine.errors import EmcfError, printable
from emcfsys_engine.images.mosaic_view import ref_of
from emcfsys_engine.run.done_so_far import DoneSoFar
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.text import how_many
from emcfsys_tui.engine.data import PictureSpec
from emcfsys_tui.messages import MaskRead


class MaskReader:
    """Follows what one job has done; called from one thread."""

    def __init__(self) -> None:
        self.wanted: tuple[int, Path] | None = None
        self._shown: tuple[int, Path] | None = None
        self._done: DoneSoFar | None = None
        self._model = ""

    def read(self) -> MaskRead | None:
        """Return what is new of the job that is wanted."""
        wanted = self.wanted
        if wanted is None:
            self._shown = None
            return None
        is_fresh, self._shown = wanted != self._shown, wanted
        try:
            if is_fresh:
                self._done = None
                request = Run(wanted[1]).record().request
                if not isinstance(request, PredictRequest):
                    return MaskRead(wanted[0], None, "no prediction")
                self._model, self._done = request.model, DoneSoFar(Run(wanted[1]))
            if self._done is None or not (self._done.look() or is_fresh):
                return None
            return self._told(wanted, self._done)
        except (EmcfError, OSError) as error:
            return MaskRead(wanted[0], None, printable(str(error)))

    def _told(self, wanted: tuple[int, Path], done: DoneSoFar) -> MaskRead:
        """Tell of the large image that is being done, or of the image that was done last."""
        job, run = wanted
        counts = [len(done.regions(str(ref_of(one)))) for one in done.mosaics]
        begun = [n for n, count in enumerate(counts) if count]
        grows = [n for n in begun if counts[n] < len(done.mosaics[n].regions)]
        if grows or (begun and done.newest is None):
            place = (grows or begun)[-1]
            mosaic = done.mosaics[place]
            words = f"{counts[place]:,} of {len(mosaic.regions):,} regions"
            spec = PictureSpec(
                key=f"{run}:{place}",
                path=mosaic.image,
                run=str(run),
                mosaic=place,
                model=self._model,
            )
            return MaskRead(job, spec, printable(f"{ref_of(mosaic).name}: {words}"))
        if done.newest is None:
            return MaskRead(job, None, "nothing is done yet")
        name = Path(done.newest.image).name
        title = f"{name}: the newest of {how_many(done.num_images, 'image')}"
        return MaskRead(job, self._of_image(done.newest.image, done.newest.mask), printable(title))

    def _of_image(self, image: str, mask: str) -> PictureSpec:
        path, plane = image, None
        if not Path(image).exists():
            file, _, number = image.rpartition("#")
            with suppress(ValueError):
                path, plane = file, int(number)
        return PictureSpec(
            key=f"{image}:{mask}", path=path, plane=plane, mask=mask, model=self._model
        )
