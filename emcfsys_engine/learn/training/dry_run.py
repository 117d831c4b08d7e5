"""One training and one validation step before anyone waits for them; patches to look at."""

import numpy as np
import torch

from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.learn.device import choose_device, choose_threads
from emcfsys_engine.learn.inference.tiles import logit_bands
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.learn.networks.weights import load_weights
from emcfsys_engine.learn.training.augment import augment
from emcfsys_engine.learn.training.dataset import Dataset, PatchSampler
from emcfsys_engine.learn.training.losses import build_loss
from emcfsys_engine.learn.training.plan import make_plan
from emcfsys_engine.project import Project

_NUM_IMAGES = 2


def dry_run(project: Project) -> list[InputError]:
    """Do one step on a few images, as training would; return what went wrong."""
    try:
        _step(project)
    except InputError as fault:
        return [fault]
    except (EmcfError, RuntimeError) as error:
        text = str(error).partition("\n")[0]
        remedy = "Try a smaller training.batch or training.patch_px, or another model"
        return [InputError(project.file, f"a first training step fails: {text}", remedy)]
    return []


def augmented_patches(project: Project, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return augmented patches as training draws them, with class values.

    Shapes: H×W float32 and H×W uint8.
    """
    train = _some(project, "train")
    plan = make_plan(project, train, train, choose_device(0), 1)
    sampler = PatchSampler(train, plan.patch_px, number, project.project.seed)
    rng = torch.Generator().manual_seed(project.project.seed)
    images, labels = augment(*sampler.crops(1), plan.patch_px, plan.strengths, rng)
    values = np.full(256, 255, np.uint8)
    values[: len(project.class_values)] = project.class_values
    return [
        (image[0].numpy(), values[label.numpy()])
        for image, label in zip(images, labels, strict=True)
    ]


def _step(project: Project) -> None:
    train, val = _some(project, "train"), _some(project, "val")
    device = choose_device(project.compute.gpus)
    plan = make_plan(project, train, val, device, choose_threads(project.compute.threads))
    network = build_network(plan.network)
    place = project.model.weights
    load_weights(
        network, str(project.folder / place) if (project.folder / place).exists() else place
    )
    network = network.to(device).to(memory_format=torch.channels_last)
    batch = min(2, plan.batch)
    sampler = PatchSampler(train, plan.patch_px, batch, project.project.seed)
    images, labels = (part.to(device) for part in sampler.crops(1))
    rng = torch.Generator(device).manual_seed(0)
    patches, truth = augment(images, labels, plan.patch_px, plan.strengths, rng)
    loss = build_loss(project.training.loss, plan.class_weights)(network.train()(patches), truth)
    loss.backward()
    image = torch.from_numpy(val[0].image).movedim(-1, 0)[:, :512, :512].to(device)
    with torch.inference_mode():
        list(logit_bands(network.eval(), image, tile_px=256, overlap=0.25, batch=1))


def _some(project: Project, split: str) -> Dataset:
    samples = [one for one in list_samples(project).samples if one.split == split]
    return Dataset(samples[:_NUM_IMAGES], project, Normaliser())
