"""One [[data]] table: its images, its labels, which belongs to which, and what is wrong."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from emcfsys_engine.annotations.contradictions import notes_of_bools, notes_of_masks
from emcfsys_engine.annotations.draw import is_in_doubt, unknown_label
from emcfsys_engine.annotations.files import find_annotations
from emcfsys_engine.annotations.formats.labelme import untouched
from emcfsys_engine.annotations.layouts import name_unlabelled
from emcfsys_engine.annotations.masks import (
    LabelTable,
    MaskFacts,
    MaskRecipe,
    label_table,
    recipe_of,
    unknown_values,
)
from emcfsys_engine.annotations.pair_masks import masks_that_count
from emcfsys_engine.annotations.pair_shapes import Place, pair_shapes, part_for
from emcfsys_engine.annotations.pairing import (
    is_label_name,
    key_of_file,
    match,
    picks_some,
    root_of,
)
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.dataset.facts_cache import FactsCache, scan_masks
from emcfsys_engine.dataset.source_images import (
    AS_STORED,
    group_of,
    images_of,
    name_of,
    sizes_of,
)
from emcfsys_engine.errors import AnnotationError, InputError, ProjectError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import find_images, left_out_words, probe
from emcfsys_engine.images.writers import is_companion
from emcfsys_engine.project import Project
from emcfsys_engine.text import few

Paired = TypeVar("Paired")

LabelKind = Literal["mask", "shapes", "class_folders"]
_SAY_VALUES = "Say what its values are under [data.labels], or predict it again"
IN_DOUBT = "nothing undrawn in its image is taken as background"


@dataclass(frozen=True, kw_only=True, order=True)
class LabelRef:
    """Where the labels of one image are."""

    path: Path
    kind: LabelKind
    plane: int | None = None  # of a mask stack
    item: int = 0  # which of the images an annotation file speaks of
    recipe: MaskRecipe = "index"
    parts: tuple[tuple[str, Path], ...] = ()  # class_folders: (label, mask)
    is_of_model: bool = False  # as predict wrote it: nobody corrected it

    @property
    def place(self) -> Place:
        """Which annotation of which file."""
        return self.path, self.item

    def __str__(self) -> str:
        return str(self.path) if self.plane is None else f"{self.path}#{self.plane}"


@dataclass(frozen=True, kw_only=True)
class LabelledItem:
    """An image and its labels, before it is told which split it is in."""

    image: ImageRef
    label: LabelRef | None
    name: str
    group: str | None
    classes: frozenset[str]
    size_HW: tuple[int, int]
    pixels: tuple[tuple[str, int], ...] | None  # (class, pixels), where a mask told


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one [[data]] table amounts to."""

    items: tuple[LabelledItem, ...]
    num_images: int = 0  # with labels or without
    shapes: tuple[int, int] = (0, 0)  # drawn and skipped, those of images it does not have too


def find_source(
    project: Project,
    index: int,
    faults: list[InputError],
    notes: list[str],
    cache: FactsCache,
    only: Collection[ImageRef] | None = None,
) -> Found:
    """Return the labelled images of one [[data]] table; faults and notes are added to the lists.

    `only`: the images of a run that goes on; others are not looked at, and no fault of it.
    """
    source = project.data[index]
    table = label_table(project, source)
    left_out: list[Path] = []
    try:
        images = images_of(project, source, left_out)
    except InputError as fault:
        faults.append(fault)
        return Found(items=())
    if left_out:
        notes.append(f"data.{index}.images: {left_out_words(left_out)}")
    if not images and only is None:
        what = f"no image is found in {source.images!r}"
        remedy = left_out_words(left_out) or "Give a folder or a pattern such as images/*.tif"
        faults.append(ProjectError(project.file, f"data.{index}.images", what, remedy))
        return Found(items=())
    mine = images if only is None else [image for image in images if image in only]
    if not mine or not source.has_labels:  # without a place for labels they teach without
        return Found(items=(), num_images=len(images))
    sizes = sizes_of(mine, faults, turned := [])
    if turned:
        notes.append(f"data.{index}.images: {few(turned)}: {AS_STORED}")
    root = root_of(source.images, project.folder)
    labelled = _Labelled(project, index, table, images, sizes, root, cache, only)
    labels, classes = labelled.find(faults, notes)
    if only is None:
        name_unlabelled(project, index, images, labels, labelled.has_files, faults, notes)
    items = [
        LabelledItem(
            image=image,
            label=labels[image],
            name=name_of(image, root),
            group=group_of(source, image, root),
            classes=classes.get(image, frozenset()),
            size_HW=sizes[image],
            pixels=tuple(labelled.pixels[image].items()) if image in labelled.pixels else None,
        )
        for image in images
        if image in labels and image in sizes
    ]
    return Found(items=tuple(items), num_images=len(images), shapes=labelled.num_shapes)


class _Labelled:
    """Finds the label of each image of one source."""

    def __init__(
        self,
        project: Project,
        index: int,
        table: LabelTable,
        images: Sequence[ImageRef],
        sizes: Mapping[ImageRef, tuple[int, int]],
        root: Path,
        cache: FactsCache,
        only: Collection[ImageRef] | None,
    ) -> None:
        self.cache = cache
        self.only = only
        self.pixels: dict[ImageRef, dict[str, int]] = {}
        self.num_shapes = (0, 0)
        self.has_files = False  # where labels are looked for, be they of an image or not
        self.project = project
        self.source = project.data[index]
        self.index = index
        self.table = table
        self.images = images
        self.sizes = sizes
        self.root = root

    def find(
        self, faults: list[InputError], notes: list[str]
    ) -> tuple[dict[ImageRef, LabelRef], dict[ImageRef, frozenset[str]]]:
        """Return image -> label and image -> classes in it."""
        if self.source.annotations is not None:
            return self._shapes(self.source.annotations, faults, notes)
        pattern = self.source.masks or ""
        folders = self._class_folders(pattern, faults)
        if folders:
            return self._stencils(folders, faults, notes)
        return self._masks(pattern, faults, notes)

    def _masks(
        self, pattern: str, faults: list[InputError], notes: list[str]
    ) -> tuple[dict[ImageRef, LabelRef], dict[ImageRef, frozenset[str]]]:
        if self.source.undrawn == "ignore" and not self.table.colours:
            key = f"data.{self.index}.undrawn"
            what = "masks say of every pixel what it is: what is not drawn in them has a value"
            remedy = 'Say which, as in "0" = "ignore" under [data.labels], and take undrawn out'
            faults.append(ProjectError(self.project.file, key, what, remedy))
        root = root_of(pattern, self.project.folder)
        try:
            masks = find_images(pattern, self.project.folder)
        except InputError as fault:
            faults.append(fault)
            return {}, {}
        if pattern == self.source.images:
            masks = [mask for mask in masks if is_label_name(mask.path)]
        self.has_files = bool(masks)
        counting = masks_that_count(masks)
        others = () if self.source.labels else counting.of_other_classes(self.project.classes)
        if self.source.labels:
            counting.doubt_values(self.project.classes, self.source.labels)
        pairs, left = counting.pairs(self.images, self.root, root)
        if self.only is None:
            notes += [f"data.{self.index}: {note}" for note in counting.notes]
        pairs = self._mine(pairs)
        mine = set(pairs.values()) if others else ()
        faults += [counting.other_classes(mask, _SAY_VALUES) for mask in others if mask in mine]
        self._name_left(left, faults, notes)
        facts = scan_masks([*pairs.values()], self.table, faults, self.cache, self.project)
        recipe = self._recipe(facts.values(), notes)
        notes += [f"data.{self.index}: {note}" for note in notes_of_masks(facts, self.table)]
        classes: dict[ImageRef, frozenset[str]] = {}
        labels: dict[ImageRef, LabelRef] = {}
        for image, mask in pairs.items():
            labels[image] = label = LabelRef(
                path=mask.path,
                kind="mask",
                plane=mask.plane,
                recipe=recipe,
                is_of_model=counting.is_of_model(mask),
            )
            if (held := facts.get(mask)) is None:
                continue
            self._check_size(image, label, held.size_HW, faults)
            if recipe == "index" and (wrong := held.unknown(self.table)):
                faults.append(unknown_values(mask, wrong, held))
            self.pixels[image] = self._pixels_of(held, recipe)
            classes[image] = frozenset(self.pixels[image])
        return labels, classes

    def _recipe(self, facts: Collection[MaskFacts], notes: list[str]) -> MaskRecipe:
        recipe = recipe_of(facts, self.table, self.project.class_values)
        if recipe == "two_values":
            low, high = self.project.class_names
            notes.append(
                f'data.{self.index}: its masks hold only 0 and 255: 0 is taken as "{low}" and 255 '
                f'as "{high}" (say otherwise under [data.labels])'
            )
        return recipe

    def _pixels_of(self, facts: MaskFacts, recipe: MaskRecipe) -> dict[str, int]:
        """Return class -> pixels of one mask."""
        names = {value: name for name, value in self.project.classes.items()}
        pixels: dict[str, int] = {}
        for value, count in facts.values:
            if recipe == "two_values":
                class_id = self.project.class_values[int(value != 0)]
            else:
                class_id = facts.class_of(value, self.table)
            if class_id in names:
                pixels[names[class_id]] = pixels.get(names[class_id], 0) + count
        return pixels

    def _class_folders(self, pattern: str, faults: list[InputError]) -> dict[str, Path]:
        """Return label -> folder where the masks lie in one folder a class.

        A folder of masks beside them that is no class is a fault: what it shows is no background.
        """
        root = self.project.folder / Path(pattern).expanduser()
        if not root.is_dir():
            return {}
        folders = [entry for entry in sorted(root.iterdir()) if entry.is_dir()]
        known = {f.name: f for f in folders if f.name in self.table.names}
        images_too = {image.path.parent.name for image in self.images}
        if not known or set(known) & images_too:
            return {}
        others = [folder for folder in folders if folder.name not in known]
        faults += [
            unknown_label(folder, folder.name, self.table)
            for folder in others
            if self.only is None and find_images(".", folder)
        ]
        return known

    def _stencils(
        self, folders: Mapping[str, Path], faults: list[InputError], notes: list[str]
    ) -> tuple[dict[ImageRef, LabelRef], dict[ImageRef, frozenset[str]]]:
        parts: dict[ImageRef, list[tuple[str, Path]]] = {}
        for name, folder in folders.items():
            masks = find_images(".", folder)
            self.has_files |= bool(masks)
            keys = {mask: key_of_file(mask.path, folder, mask.plane) for mask in masks}
            pairs, left = match(self.images, self.root, keys)
            self._name_left(left, faults, notes)
            notes += [f"data.{self.index}: {folder.name}: {n}" for n in notes_of_bools(masks)]
            for image, mask in self._mine(pairs).items():
                self._check_stencil(image, mask, faults)
                parts.setdefault(image, []).append((name, mask.path))
        # Where stencils overlap, the class with the higher value lies on top.
        order = {name: self.table.of_name(name) or 0 for name in folders}
        labels = {
            image: LabelRef(
                path=found[0][1].parent.parent,
                kind="class_folders",
                parts=tuple(sorted(found, key=lambda part: order[part[0]])),
            )
            for image, found in parts.items()
        }
        ids = {value: name for name, value in self.project.classes.items()}
        bare = ids.get(self.table.undrawn)  # where no stencil is set
        classes = {
            image: frozenset(ids[order[name]] for name, _ in found if order[name] in ids)
            | ({bare} if bare is not None else frozenset())
            for image, found in parts.items()
        }
        return labels, classes

    def _check_stencil(self, image: ImageRef, mask: ImageRef, faults: list[InputError]) -> None:
        label = LabelRef(path=mask.path, kind="mask", plane=mask.plane)
        try:
            shape = probe(mask.path).shape
        except InputError as fault:
            faults.append(fault)
            return
        self._check_size(image, label, (shape[0], shape[1]), faults)

    def _shapes(
        self, pattern: str, faults: list[InputError], notes: list[str]
    ) -> tuple[dict[ImageRef, LabelRef], dict[ImageRef, frozenset[str]]]:
        root = root_of(pattern, self.project.folder)
        num_faults = len(faults)
        found = find_annotations(pattern, self.project.folder, faults, notes)
        try:
            waiting = untouched(found)
        except InputError as fault:
            faults.append(fault)
            return {}, {}
        self.has_files = len(found) > len(waiting) or len(faults) > num_faults
        found = {path: every for path, every in found.items() if path not in waiting}
        if waiting:
            what = f"{len(waiting)} suggestions that nobody saved yet"
            notes.append(f"data.{self.index}: {what}: they are no labels")
        pairs = pair_shapes(self.images, self.root, found, root)
        if self.only is None:
            notes += [f"data.{self.index}: {note}" for note in pairs.notes]
        labels = {
            image: LabelRef(
                path=path,
                kind="shapes",
                item=item,
                plane=image.plane,
                is_of_model=path in pairs.of_models,
            )
            for image, (path, item) in self._mine(pairs.of_image).items()
        }
        left = [LabelRef(path=path, kind="shapes", item=item) for path, item in pairs.without_image]
        self._name_left(left, faults, notes)
        for path, item in pairs.unused if self.only is None else ():
            one = found[path][item]
            self._count(one)
            if not one.skipped:
                name = one.image_name or "an image"
                notes.append(f"{path}: {name}: {one.unused}: there are no labels for it")
            notes += [f"{path}: {remark}" for remark in one.remarks]
        return labels, self._check_shapes(labels, found, faults, notes)

    def _count(self, annotation: Annotation) -> None:
        drawn, skipped = self.num_shapes
        self.num_shapes = (drawn + len(annotation.shapes), skipped + len(annotation.skipped))

    def _check_shapes(
        self,
        pairs: Mapping[ImageRef, LabelRef],
        found: Mapping[Path, tuple[Annotation, ...]],
        faults: list[InputError],
        notes: list[str],
    ) -> dict[ImageRef, frozenset[str]]:
        names = {value: name for name, value in self.project.classes.items()}
        classes: dict[ImageRef, frozenset[str]] = {}
        for image, label in pairs.items():
            annotation = part_for(found[label.path][label.item], image)
            self._count(annotation)
            notes += [f"{label}: {remark}" for remark in annotation.remarks]
            if is_in_doubt(annotation, self.table):
                notes.append(f"{label}: where a skipped shape lies is not known: {IN_DOUBT}")
            if annotation.size_HW is not None:
                self._check_size(image, label, annotation.size_HW, faults)
            drawn = [one for one in annotation.shapes if not self.table.is_reviewed(one)]
            known = [(one, self.table.of_shape(one)) for one in drawn]
            wrong = dict.fromkeys(
                one.full_name or one.label for one, class_id in known if class_id is None
            )
            faults += [unknown_label(label.path, name, self.table) for name in wrong]
            ids = {class_id for _, class_id in known if class_id is not None}
            ids.add(self.table.undrawn)
            if len(drawn) < len(annotation.shapes):
                ids.add(self.table.background)
            classes[image] = frozenset(names[i] for i in ids if i in names)
        self._name_empty(pairs, found, notes)
        return classes

    def _name_empty(
        self,
        pairs: Mapping[ImageRef, LabelRef],
        found: Mapping[Path, tuple[Annotation, ...]],
        notes: list[str],
    ) -> None:
        """Say how many images nothing was drawn on: some tools list those nobody came to, too."""
        parts = (part_for(found[label.path][label.item], image) for image, label in pairs.items())
        number = sum(not part.num_read for part in parts)
        if number and not self.table.ignores_undrawn:
            of_all = f"{number} of {len(pairs)} labelled images hold no shape"
            notes.append(f"data.{self.index}: {of_all}: they are background, whole")

    def _check_size(
        self, image: ImageRef, label: LabelRef, size_HW: tuple[int, int], faults: list[InputError]
    ) -> None:
        wanted = self.sizes.get(image)
        if wanted is not None and tuple(size_HW) != wanted:
            faults.append(size_mismatch(label, size_HW, image, wanted))

    def _mine(self, pairs: Mapping[ImageRef, Paired]) -> dict[ImageRef, Paired]:
        """Return the pairs of the images that are looked at; all are paired, so that none moves."""
        only = self.only
        return {image: one for image, one in pairs.items() if only is None or image in only}

    def _name_left(
        self,
        left: Sequence[ImageRef | LabelRef],
        faults: list[InputError],
        notes: list[str],
    ) -> None:
        """Labels without an image: an error for masks, a note for annotations or by request.

        What `predict` writes beside a mask is of its image.
        """
        # A glob picks some images on purpose: the labels of the others are no fault.
        picks = picks_some(self.source.images, self.project.folder)
        for label in left:
            if picks or self.only is not None or is_companion(label.path):
                continue
            if self.source.skips_unlabelled:
                notes.append(f"{label}: belongs to no image of {self.source.images!r}: not used")
                continue
            what = f"belongs to no image of {self.source.images!r}"
            remedy = "Add the image, rename one of them alike, or take this file away"
            faults.append(AnnotationError(str(label), what, remedy))


def size_mismatch(
    label: LabelRef, label_HW: Sequence[int], image: ImageRef, image_HW: Sequence[int]
) -> AnnotationError:
    """Return the error for labels of another size than their image."""
    what = (
        f"is {label_HW[1]} × {label_HW[0]} pixels, but its image {image.name} "
        f"is {image_HW[1]} × {image_HW[0]}"
    )
    return AnnotationError(str(label), what, "Pair it with the right image, or export it again")
