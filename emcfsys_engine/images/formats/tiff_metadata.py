"""The pixel size a TIFF's maker wrote: FEI, Zeiss, JEOL, TVIPS, Olympus, Gatan, ImageJ, OME."""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import tifffile

from emcfsys_engine.images.micrograph import nm_per, square_nm

PixelNm = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class VendorFacts:
    """What the maker's own tags say. Units: pixel_nm is (y, x)."""

    maker: str = ""
    pixel_nm: PixelNm | None = None
    info_bar_rows: int = 0
    notes: tuple[str, ...] = ()

    def of_plane(self, shape: tuple[int, ...], first: tuple[int, ...]) -> "VendorFacts":
        """Return what of it holds for a plane of this shape; it is of the first one's.

        A page of another size may show the same, smaller; OME's images say themselves if they do.
        """
        if shape[:2] == first[:2] or self.maker == "OME":
            return self
        return replace(self, pixel_nm=None, info_bar_rows=0)


def vendor_facts(tiff: tifffile.TiffFile, shape: tuple[int, ...]) -> VendorFacts:
    """Return the first maker's facts that apply; a printer's dots per inch are never a pixel size.

    Shapes: shape is (H, W) or (H, W, C) of a plane.
    """
    for recognise in _MAKERS:
        try:
            facts = recognise(tiff, shape)
        except Exception:
            # A maker's tag that does not parse says nothing: the image itself is still good.
            continue
        if facts is not None:
            return facts
    return VendorFacts()


def _fei(tiff: tifffile.TiffFile, shape: tuple[int, ...]) -> VendorFacts | None:
    if not tiff.is_fei:
        return None
    metadata: Mapping[str, Any] = tiff.fei_metadata or {}
    scan = _section(metadata, "Scan")
    if "PixelWidth" not in scan:
        scan = _section(metadata, "EScan")
    image = _section(metadata, "Image")
    width, height = int(image.get("ResolutionX", 0)), int(image.get("ResolutionY", 0))
    pixel_nm = None
    if "PixelWidth" in scan:
        pixel_nm = square_nm(_number(scan.get("PixelHeight")), _number(scan["PixelWidth"]), "m")
    elif width and height:
        beam = _section(metadata, "IRBeam")
        if "HFW" in beam and "VFW" in beam:
            high, wide = _number(beam["VFW"]), _number(beam["HFW"])
            if high and wide:
                pixel_nm = square_nm(high / height, wide / width, "m")
    if width and width != shape[1]:
        pixel_nm = None  # saved at another size than scanned
    bar = shape[0] - height if height and width == shape[1] and height < shape[0] else 0
    return VendorFacts(maker="FEI", pixel_nm=pixel_nm, info_bar_rows=bar)


def _phenom(tiff: tifffile.TiffFile, _shape: tuple[int, ...]) -> VendorFacts | None:
    tag = tiff.pages.first.tags.get("FEI_TITAN")
    text = tag.value if tag is not None else ""
    if not isinstance(text, str) or "<FeiImage" not in text or "<!" in text:
        return None
    image = ET.fromstring(text[text.index("<FeiImage") :].rstrip("\0 \r\n"))
    sides: list[float | None] = []
    for name in ("pixelHeight", "pixelWidth"):
        side = image.find(name)
        per = nm_per(side.get("unit", "")) if side is not None else None
        sides.append(float(side.text or 0) * per if side is not None and per else None)
    bar = int(float(image.findtext("databarHeight") or 0))
    size = square_nm(sides[0], sides[1], "nm") if None not in sides else None
    return VendorFacts(maker="Phenom", pixel_nm=size, info_bar_rows=max(0, bar))


def _zeiss(tiff: tifffile.TiffFile, shape: tuple[int, ...]) -> VendorFacts | None:
    if not tiff.is_sem:
        return None
    metadata: Mapping[str, Any] = tiff.sem_metadata or {}
    unnamed = metadata.get("", ())
    # The unnamed block holds the pixel size on a display 1024 pixels wide, in metres.
    pixel_nm = None
    if len(unnamed) > 3:
        side = (_number(unnamed[3]) or 0.0) * 1024 / shape[1]
        pixel_nm = square_nm(side, side, "m")
    named = metadata.get("ap_image_pixel_size")
    if named is None and pixel_nm is None:
        # Beside an unnamed block this one, too, is that of a display 1024 pixels wide.
        named = metadata.get("ap_pixel_size")
    if named is not None and len(named) == 2:  # tifffile leaves a decimal comma and its unit as one
        named = (named[0], *str(named[1]).split(maxsplit=1))
    notes: tuple[str, ...] = ()
    if named is not None and len(named) > 2:
        said = square_nm(_number(named[1]), _number(named[1]), str(named[2]))
        if pixel_nm is None:
            pixel_nm = said
        elif said is not None and not math.isclose(said[0], pixel_nm[0], rel_tol=0.02):
            notes = (
                f"two pixel sizes disagree ({said[0]:g} and {pixel_nm[0]:g} nm): none is used",
            )
            pixel_nm = None
    return VendorFacts(maker="Zeiss", pixel_nm=pixel_nm, notes=notes)


def _hamamatsu(tiff: tifffile.TiffFile, _shape: tuple[int, ...]) -> VendorFacts | None:
    if "HPD-TA" not in _text(tiff, "Software") and "HiPic" not in _text(tiff, "Software"):
        return None
    described = _text(tiff, "ImageDescription")
    if "Streak" in described:
        notes = ("a streak camera's picture: time over wavelength, no pixel size in nm",)
        return VendorFacts(maker="Hamamatsu", notes=notes)
    return VendorFacts(maker="Hamamatsu")


def _jeol(tiff: tifffile.TiffFile, _shape: tuple[int, ...]) -> VendorFacts | None:
    if not _text(tiff, "Make").startswith("JEOL"):
        return None
    text = _text(tiff, "ImageDescription").strip(" \r\n\t\x00\x01")
    report = ET.fromstring(text) if "<!" not in text else ET.Element("none")
    # The resolution tag is the camera chip's; the magnification leads from it to the specimen.
    mode = report.findtext(".//Eos/EosMode") or report.findtext(".//EosMode")
    imaging = report.find(".//ImageFormingSystem")
    kind = imaging.findtext("ModeString") if imaging is not None else None
    if mode != "eosTEM" or kind != "MAG" or imaging is None:
        return VendorFacts(maker="JEOL", notes=("not a TEM image in MAG mode: no pixel size",))
    magnification = float(imaging.findtext("SelectorValue") or 0)
    chip = _resolution(tiff)
    if chip is None or not magnification > 0:
        return VendorFacts(maker="JEOL")
    return VendorFacts(maker="JEOL", pixel_nm=(chip[0] / magnification, chip[1] / magnification))


def _tvips(tiff: tifffile.TiffFile, _shape: tuple[int, ...]) -> VendorFacts | None:
    if not tiff.is_tvips:
        return None
    metadata: Mapping[str, Any] = tiff.tvips_metadata or {}
    size = square_nm(metadata.get("PixelSizeY"), metadata.get("PixelSizeX"), "nm")
    return VendorFacts(maker="TVIPS", pixel_nm=size)


def _olympus(tiff: tifffile.TiffFile, _shape: tuple[int, ...]) -> VendorFacts | None:
    if not tiff.is_sis:
        return None
    metadata: Mapping[str, Any] = tiff.sis_metadata or {}
    size = square_nm(metadata.get("pixelsizey"), metadata.get("pixelsizex"), "m")
    return VendorFacts(maker="Olympus SIS", pixel_nm=size)


def _gatan(tiff: tifffile.TiffFile, _shape: tuple[int, ...]) -> VendorFacts | None:
    tags = tiff.pages.first.tags  # 65003, 65004: units of x and y; 65009, 65010: their scales
    if 65003 not in tags or 65009 not in tags:
        return None
    unit_x, scale_x = str(tags[65003].value), tags[65009].value
    unit_y = str(tags[65004].value) if 65004 in tags else unit_x
    scale_y = tags[65010].value if 65010 in tags else scale_x
    pixel_nm = None
    per_x, per_y = nm_per(unit_x), nm_per(unit_y)
    if per_x is not None and per_y is not None:
        pixel_nm = square_nm(float(scale_y) * per_y, float(scale_x) * per_x, "nm")
    return VendorFacts(maker="Gatan", pixel_nm=pixel_nm)


def _tescan(tiff: tifffile.TiffFile, _shape: tuple[int, ...]) -> VendorFacts | None:
    tag = tiff.pages.first.tags.get(50431)
    data = tag.value if tag is not None else b""
    data = data.encode() if isinstance(data, str) else data
    if not isinstance(data, bytes):
        return None
    found = {
        name.decode(): _number(value.decode())
        for name, value in re.findall(rb"(PixelSize[XY])=([\d.,eE+-]+)", data)
    }
    size = square_nm(found.get("PixelSizeY"), found.get("PixelSizeX"), "m")
    return VendorFacts(maker="TESCAN", pixel_nm=size) if found else None


_OF_SLIDES = ("label", "macro")  # pictures of the glass that a scanner adds


def _ome(tiff: tifffile.TiffFile, _shape: tuple[int, ...]) -> VendorFacts | None:
    if not tiff.is_ome:
        return None
    text = tiff.ome_metadata or ""
    root = ET.fromstring(text) if "<!ENTITY" not in text else ET.Element("none")
    images = [one for one in root.iter() if one.tag.rpartition("}")[2] == "Image"]
    # One XML may describe several images, of this file or of the files beside it.
    own = [one for one in images if one.get("Name", "").split(" ")[0].lower() not in _OF_SLIDES]
    inside = (part for one in own or images for part in one)
    pixels = [part for part in inside if part.tag.rpartition("}")[2] == "Pixels"]
    sizes = list(dict.fromkeys(_ome_size(part.attrib) for part in pixels))
    if len(sizes) > 1:
        notes = ("its images differ in pixel size: none is used",)
        return VendorFacts(maker="OME", notes=notes)
    return VendorFacts(maker="OME", pixel_nm=sizes[0] if sizes else None)


def _ome_size(words: Mapping[str, str]) -> PixelNm | None:
    per_x = nm_per(words.get("PhysicalSizeXUnit", "µm"))
    per_y = nm_per(words.get("PhysicalSizeYUnit", "µm"))
    across, down = _number(words.get("PhysicalSizeX")), _number(words.get("PhysicalSizeY"))
    if per_x is None or per_y is None or across is None:
        return None
    return square_nm(None if down is None else down * per_y, across * per_x, "nm")


def _imagej(tiff: tifffile.TiffFile, _shape: tuple[int, ...]) -> VendorFacts | None:
    if not tiff.is_imagej:
        return None
    metadata: Mapping[str, Any] = tiff.imagej_metadata or {}
    # Rows have a unit of their own only where it is another one.
    per_x, per_y = (
        nm_per(_imagej_unit(str(metadata.get(key, metadata.get("unit", "")))))
        for key in ("unit", "yunit")
    )
    down, across = _pixels_per_unit(tiff)
    if per_x is None or per_y is None or not down or not across:
        return VendorFacts(maker="ImageJ")
    return VendorFacts(maker="ImageJ", pixel_nm=square_nm(per_y / down, per_x / across, "nm"))


def _imagej_unit(text: str) -> str:
    """Return a unit: ImageJ writes letters beyond ASCII as \\u00B5, and people plurals of any."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), text)


_MAKERS: tuple[Callable[[tifffile.TiffFile, tuple[int, ...]], VendorFacts | None], ...] = (
    _phenom,
    _fei,
    _zeiss,
    _hamamatsu,
    _jeol,
    _tvips,
    _olympus,
    _gatan,
    _tescan,
    _ome,
    _imagej,
)


def _number(value: object) -> float | None:
    """Return a maker's number, which may be text with a decimal comma; None where it is none."""
    try:
        return float(value.replace(",", ".")) if isinstance(value, str) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _section(metadata: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = metadata.get(name)
    return section if isinstance(section, dict) else {}


def _text(tiff: tifffile.TiffFile, name: str) -> str:
    tag = tiff.pages.first.tags.get(name)
    return tag.value if tag is not None and isinstance(tag.value, str) else ""


def _pixels_per_unit(tiff: tifffile.TiffFile) -> tuple[float, float]:
    """Return the (Y, X) resolution tags as numbers; 0 when absent."""
    tags = tiff.pages.first.tags
    numbers: list[float] = []
    for name in ("YResolution", "XResolution"):
        over, under = tags[name].value if name in tags else (0, 1)
        numbers.append(over / under if under else 0.0)
    return numbers[0], numbers[1]


def _resolution(tiff: tifffile.TiffFile) -> PixelNm | None:
    """Return the resolution tags as nm a pixel (y, x)."""
    unit = tiff.pages.first.tags.get("ResolutionUnit")
    per = {2: 25.4e6, 3: 10e6}.get(int(unit.value) if unit is not None else 2)
    down, across = _pixels_per_unit(tiff)
    return (per / down, per / across) if per and down > 0 and across > 0 else None
