"""The engine as the interface sees it: what can be done beside the tabs, each as a small form.

A tool is an engine command with its switches, or a change of project.toml that keeps its comments.
"""

import csv
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from emcfsys_engine.errors import EmcfError, InputError, printable
from emcfsys_engine.project import load_project
from emcfsys_tui.engine.edit_project import edit_project
from emcfsys_tui.engine.form import FormField
from emcfsys_tui.engine.runs import as_command, run_command
from emcfsys_tui.messages import TextFound, Told
from emcfsys_tui.view_models import SizeChart, SizeCurve, SizeMap

Values = Mapping[str, str]
_YES_NO = ("no", "yes")
_MOST_ROWS = 40
_MAP_PX = 240  # a side of a grain map at most: more half-blocks no terminal has


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do, and what has to be said for it."""

    key: str  # that opens it
    name: str
    about: str
    fields: Callable[[Path], tuple[FormField, ...]] = lambda folder: ()
    words: Callable[[Path, Values], list[str]]  # of the engine command; none: project.toml changes
    work: Callable[[Path, Values, list[str]], TextFound | Told]
    changes: bool = False  # it is not for those who only look
    needs_project: bool = True


def field(key: str, value: str = "", default: str = "", choices: tuple[str, ...] = ()) -> FormField:
    """Return one line of a tool's form."""
    return FormField(key=key, value=value, default=default, choices=choices)


def _switch(key: str) -> FormField:
    return field(key, "no", "no", _YES_NO)


def _flags(values: Values, **options: str) -> list[str]:
    """Return the switches that are on, and the options that have a value."""
    words: list[str] = []
    for name, key in options.items():
        value, option = values.get(key, "").strip(), f"--{name.replace('_', '-')}"
        if value == "yes":
            words.append(option)
        elif value and value != "no":
            words += [option, value]
    return words


def _models(values: Values) -> list[str]:
    others = [one.strip() for one in values.get("more models", "").split(",") if one.strip()]
    return [word for other in others for word in ("--with", other)]


def _best(folder: Path) -> str:
    """Return the model file that "best" stands for; empty where there is none."""
    try:
        resolve = import_module("emcfsys_engine.hotfolder.status").resolve_model
        return str(resolve(load_project(folder), "best"))
    except EmcfError:
        return ""


def _needed(values: Values, *keys: str) -> None:
    for key in keys:
        if not values.get(key, "").strip():
            raise InputError(key, "is empty", "Fill it in")


def _job(folder: Path, values: Values, words: list[str]) -> Told:
    done = run_command(words)
    if done.code != 0:
        raise InputError(words[1], done.words.removeprefix("emcfsys-engine: ") or "failed")
    return Told(f"job {done.out.strip()} is queued: 5 shows it{done.notes}")


def _text(folder: Path, values: Values, words: list[str]) -> TextFound:
    done = run_command(words, is_look=True)
    # Doctor and clean end with 1 or 2 where they have something to say.
    return TextFound(as_command(*words), done.told or "Nothing was said.")


def _predict_fields(folder: Path) -> tuple[FormField, ...]:
    return (
        field("model", _best(folder), "a model file, or a run's folder"),
        field("images", f"{folder}/", "a folder, a file or a glob"),
        field("out", f"{folder}/masks", "a folder"),
        field("more models", "", "files with commas: the mean of all is used"),
        _switch("flips"),
        _switch("overlays"),
        _switch("uncertainty"),
        _switch("ranking"),
        field("after job", "", "its number: wait until it is done"),
        field("group", "", "a name that several jobs share"),
    )


def _predict(folder: Path, values: Values) -> list[str]:
    words = ["submit", "predict", values["model"], values["images"], "--out", values["out"]]
    words += _models(values)
    words += _flags(values, tta="flips", overlay="overlays", uncertainty="uncertainty")
    return words + _flags(values, rank_uncertain="ranking", after="after job", group="group")


def _submit_prediction(folder: Path, values: Values, words: list[str]) -> Told:
    _needed(values, "model", "images", "out")
    return _job(folder, values, words)


def _evaluate(folder: Path, values: Values) -> list[str]:
    words = ["evaluate", values["model"], str(folder), "--split", values["images of"] or "val"]
    return [*words, *_models(values), *_flags(values, tta="flips")]


def _evaluated(folder: Path, values: Values, words: list[str]) -> TextFound:
    _needed(values, "model")
    return _text(folder, values, words)


def _measure(folder: Path, values: Values) -> list[str]:
    words = ["measure", values["masks"], "--out", values["out"], "--project", str(folder)]
    words += _flags(values, images="images", exclude_border="without border")
    words += _flags(values, standard="standard", background="background")
    return words + _flags(values, split="split", histogram="histogram")


def _measured(folder: Path, values: Values, words: list[str]) -> TextFound:
    _needed(values, "masks", "out")
    done = run_command(words)
    out = Path(values["out"])
    parts = [done.told, "" if done.code else _images_table(out)]
    charts = () if done.code else size_charts(out)
    maps = size_maps(out) if not done.code and values.get("standard") == "e112" else ()
    text = "\n\n".join(part for part in parts if part)
    return TextFound(f"measured: {out}", text, charts, maps)


def _images_table(out: Path) -> str:
    """Return the first rows of what was measured of each image; empty where nothing was."""
    newest = import_module("emcfsys_engine.tools.measure.newest")  # loads numpy, in this thread
    file: Path | None = newest.newest_of(out, "images", ".csv")
    return "" if file is None else table_of(file)


def size_maps(out: Path) -> tuple[SizeMap, ...]:
    """Return the grain maps of a measurement, small enough for a terminal; none without grains."""
    try:
        found = import_module("emcfsys_engine.tools.report.sizes").small_maps(out, _MAP_PX)
    except InputError:
        return ()
    return tuple(
        SizeMap(title=one.name, words=one.words, size_HW=one.size_HW, colours=one.colours)
        for one in found
    )


def size_charts(out: Path) -> tuple[SizeChart, ...]:
    """Return the distributions that a report of this measurement has; none without objects."""
    try:
        # Loads numpy, in this thread: nobody who does not measure waits for it.
        found = import_module("emcfsys_engine.tools.report.sizes").size_charts(out)
    except InputError:
        return ()
    return tuple(
        SizeChart(
            title=chart.title,
            note=chart.note,
            x_words=chart.x_words,
            is_cumulative=chart.limits[1] == 100,
            curves=tuple(
                SizeCurve(name=curve.name, points=tuple(curve.points)) for curve in chart.curves
            ),
        )
        for chart in found
    )


def table_of(file: Path) -> str:
    """Return the first rows of a CSV file as columns; empty where there is none."""
    try:
        with file.open(newline="", encoding="utf-8", errors="replace") as stream:
            rows = [row for row, _ in zip(csv.reader(stream), range(_MOST_ROWS + 1), strict=False)]
    except (OSError, ValueError, csv.Error):
        return ""
    if not rows:
        return ""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=False)]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    ]
    return "\n".join([f"─ {file}", *map(printable, lines)])


def _clean(folder: Path, values: Values) -> list[str]:
    words = ["runs", "clean", str(folder), "--what", values["what"]]
    words += _flags(values, older_than="older than days", keep="keep newest")
    return words + _flags(values, yes="remove it")


def _microscope_fields(folder: Path) -> tuple[FormField, ...]:
    try:
        watched = load_project(folder).hotfolder.watch or "incoming"
    except EmcfError:
        watched = "incoming"
    return (
        field("folder", str(folder / watched)),
        field("seconds between", "2", "2"),
        field("images", "10", "10"),
        field("manner", "mixed", "mixed", ("whole", "slow", "rename", "burst", "mixed")),
    )


def _microscope(folder: Path, values: Values) -> list[str]:
    words = ["demo", "--microscope", values["folder"], "--manner", values["manner"]]
    return [*words, *_flags(values, every="seconds between"), "--count", values["images"] or "10"]


def _played(folder: Path, values: Values, words: list[str]) -> Told:
    done = run_command(words, is_look=True)
    if done.code != 0:
        raise InputError("demo", done.words.removeprefix("emcfsys-engine: ") or "ended")
    return Told(f"{len(done.out.split())} micrographs were written")


def _train_later(folder: Path, values: Values) -> list[str]:
    words = ["submit", "train", str(folder)]
    return words + _flags(
        values, after="after job", group="group", priority="priority", gpus="GPUs"
    )


def _add_source(folder: Path, values: Values, words: list[str]) -> Told:
    """Append a [[data]] table to project.toml, its comments kept."""
    _needed(values, "images", "labels")
    tomlkit: Any = import_module("tomlkit")
    table = tomlkit.table()
    table["images"] = values["images"]
    table[values["kind"] or "annotations"] = values["labels"]
    table["split"] = values["split"] or "auto"
    edit_project(folder, lambda document: document["data"].append(table))
    return Told(f"[[data]] with images = {printable(values['images'])} was added; k checks")


def _set_class(folder: Path, values: Values, words: list[str]) -> Told:
    """Add a class, give one another name, or take one away, in [classes]; comments are kept."""
    name, new = values["class"].strip(), values["new name"].strip()
    if not name and not new:
        raise InputError("class", "is empty", "Name a class, or a new name to add one")

    def change(document: Any) -> None:
        classes: Any = document["classes"]
        if not name:
            taken = [one["value"] if _has_more(one) else one for one in classes.values()]
            classes[new] = int(values["value"] or max(taken, default=-1) + 1)
            return
        if name not in classes:
            raise InputError("class", f'"{name}" is none', f"Known: {', '.join(classes)}")
        if values["value"].strip():
            # { value = 2, instances = true }: its objects are told apart as before.
            where, key = (classes[name], "value") if _has_more(classes[name]) else (classes, name)
            where[key] = int(values["value"])
        if new and new != name:
            document["classes"] = _renamed(classes, name, new)
            _mean_by(document, name, new)

    if values["value"].strip() and not values["value"].strip().isdecimal():
        raise InputError("value", f"{values['value']!r} is no number", "Write one from 0 to 254")
    edit_project(folder, change)
    return Told(f"[classes]: {printable(new or name)}")


def _has_more(entry: Any) -> bool:
    """Tell whether a class says more than its value: a table of its own."""
    return isinstance(entry, dict)


def _renamed(classes: Any, name: str, new: str) -> Any:
    """Return [classes] with one under another name, in its place and with all comments."""
    tomlkit: Any = import_module("tomlkit")
    if isinstance(classes, tomlkit.items.InlineTable):
        table = tomlkit.inline_table()
        table.update({new if key == name else key: value for key, value in classes.items()})
        return table
    table = tomlkit.table()
    for key, item in classes.value.body:
        if key is None:
            table.add(item)  # a comment, or an empty line
        else:
            table.add(new if key.key == name else key.key, item)
    return table


def _mean_by(document: Any, name: str, new: str) -> None:
    """Let labels that meant a class mean it by its new name; drawn ones of the old name, too."""
    for table in document["data"]:
        if "labels" not in table:
            table["labels"] = import_module("tomlkit").table()
        for label, meaning in list(table["labels"].items()):
            if meaning == name:
                table["labels"][label] = new
        table["labels"].setdefault(name, new)


def _no_words(folder: Path, values: Values) -> list[str]:
    return []


_SPLITS = ("train", "val", "test", "all")
TOOLS: tuple[Tool, ...] = (
    Tool(
        key="p",
        name="predict a folder",
        about="masks of any images, by one model or several, as a job",
        fields=_predict_fields,
        words=_predict,
        work=_submit_prediction,
        changes=True,
    ),
    Tool(
        key="v",
        name="evaluate a model",
        about="how well it does on a split of this project",
        fields=lambda folder: (
            field("model", _best(folder), "a model file, or a run's folder"),
            field("images of", "val", "val", _SPLITS),
            field("more models", "", "files with commas: the mean of all is used"),
            _switch("flips"),
        ),
        words=_evaluate,
        work=_evaluated,
    ),
    Tool(
        key="m",
        name="measure masks",
        about="objects, areas, diameters, standards: tables, distributions, grain maps",
        fields=lambda folder: (
            field("masks", str(folder / "predictions"), "a folder, a file or a glob"),
            field("images", "", "for intensities and pixel sizes"),
            field("out", str(folder / "numbers"), "a folder"),
            field("split", "none", "none", ("none", "watershed")),
            field(
                "histogram", "diameter", "diameter", ("diameter", "area", "feret", "circularity")
            ),
            _switch("without border"),
            field("standard", "no", "no", ("no", "e112", "e562", "e1245", "iso13322")),
            field("background", "", "the class without objects; boundaries for e112"),
        ),
        words=_measure,
        work=_measured,
        changes=True,
    ),
    Tool(
        key="t",
        name="train after another job",
        about="this project, with a place in the queue",
        fields=lambda folder: (
            field("after job", "", "its number: wait until it is done"),
            field("group", "", "a name that several jobs share"),
            field("priority", "", "higher ones start first: 0"),
            field("GPUs", "", "as the project says"),
        ),
        words=_train_later,
        work=_job,
        changes=True,
    ),
    Tool(
        key="c",
        name="classes",
        about="add one, rename one, give it another value, in project.toml",
        fields=lambda folder: (
            field("class", "", "empty: a new one"),
            field("new name", "", "empty: as it is"),
            field("value", "", "empty: as it is, or the next"),
        ),
        words=_no_words,
        work=_set_class,
        changes=True,
    ),
    Tool(
        key="s",
        name="add a source of images",
        about="one more [[data]] table in project.toml",
        fields=lambda folder: (
            field("images", "", "a folder or glob, from project.toml"),
            field("labels", "", "a folder or glob, from project.toml"),
            field("kind", "annotations", "annotations", ("annotations", "masks")),
            field("split", "auto", "auto", ("auto", "train", "val", "test")),
        ),
        words=_no_words,
        work=_add_source,
        changes=True,
    ),
    Tool(
        key="r",
        name="clean up old runs",
        about="what old checkpoints and previews take; removes it if you say so",
        fields=lambda folder: (
            field("what", "checkpoints,previews,temporary"),
            field("older than days", "", "any"),
            field("keep newest", "", "none"),
            _switch("remove it"),
        ),
        words=_clean,
        work=_text,
        changes=True,
    ),
    Tool(
        key="i",
        name="demo microscope",
        about="writes micrographs into the hot folder, one by one",
        fields=_microscope_fields,
        words=_microscope,
        work=_played,
        changes=True,
    ),
    Tool(
        key="b",
        name="backbones",
        about="every network, and whether its weights are here",
        fields=lambda folder: (field("pattern", "", "empty: the recommended ones; convnext*"),),
        words=lambda folder, values: ["models", *filter(None, [values["pattern"].strip()])],
        work=_text,
        needs_project=False,
    ),
    Tool(
        key="d",
        name="doctor",
        about="what this machine can do, and what to mend",
        words=lambda folder, values: ["doctor"],
        work=_text,
        needs_project=False,
    ),
)
