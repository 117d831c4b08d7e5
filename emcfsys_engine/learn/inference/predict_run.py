"""A prediction run from its run.json to its ending."""

import os

import torch

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.learn.device import choose_threads, lost_gpu
from emcfsys_engine.learn.inference.files import find_inputs, predict_files
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.run_context import Worker, say_ending
from emcfsys_engine.run.events import RunFinished, RunStarted, WarningGiven
from emcfsys_engine.run.folder import PredictRequest


def execute(worker: Worker) -> int:
    """Predict what run.json names; return 1 when an image failed."""
    request = worker.record.request
    if not isinstance(request, PredictRequest):
        raise RunFolderError(worker.run.record_file, "is no prediction", "Predict anew")
    torch.set_num_threads(choose_threads(request.threads))
    refs = find_inputs(request)
    predictor = Predictor(
        (request.model, *request.also),
        overlap=request.overlap,
        tta=request.tta,
        tile_px=request.tile_px,
        batch=request.batch,
    )
    worker.say(
        RunStarted(
            run=worker.run.id,
            does="predict",
            project=predictor.card.project,
            classes=predictor.card.classes,
            device=predictor.device.type,
            num_images=len(refs),
        )
    )
    if lost := lost_gpu(predictor.device, None, os.environ):
        worker.say(WarningGiven(message=lost))
    tally = predict_files(request, refs, predictor, worker.say, worker.asked)
    asked = worker.asked()
    if asked is not None:
        return say_ending(worker, "stopped" if asked == "stop" else asked)
    worker.say(RunFinished(reason="done", done=tally.done + tally.skipped, failed=tally.failed))
    return 1 if tally.failed else 0
