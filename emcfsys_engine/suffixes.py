"""Which files are micrographs by their names, which stand beside them, and which are never data."""

# Names a person gives to micrographs: such a file that is none is worth an error, others are not.
_SUFFIXES = (
    ".tif .tiff .btf .png .jpg .jpeg .bmp .mrc .mrcs .map .rec .st .ali .dm3 .dm4 .ser .emi .emd"
    " .h5 .hdf5 .zarr .czi .elid .gif .webp .avif .jp2 .j2k .j2c .jpc .jpx .jpf .pgm .ppm .pbm"
    " .pnm .pfm .qoi .ras"
)
MICROGRAPH_SUFFIXES = frozenset(_SUFFIXES.split())
# Pictures that nothing here reads: they are said to be left out, once a folder.
_OTHER_PICTURES = (
    ".heic .heif .jxl .jxr .psd .psb .xcf .tga .pcx .pam .sgi .fits .fit .fts .exr .svg .eps .wmf"
    " .ico .dng .cr2 .nef .arw .nd2 .lif .oib .oif .vsi .ims .spm .ibw .sxm .gsf .bcf .rpl"
)
OTHER_PICTURE_SUFFIXES = frozenset(_OTHER_PICTURES.split())
SIDE_CAR_SUFFIXES = frozenset({".txt", ".hdr"})  # texts that may tell an image's scale
PACKED_SUFFIXES = frozenset({".gz", ".bz2"})  # a packed file is a micrograph when its content is

# Thumbnails of servers and notebooks, lost blocks, waste baskets, the halves that macOS adds.
_LEFT_ALONE = frozenset(
    name.lower()
    for name in (
        "__MACOSX", "@eaDir", "#recycle", "lost+found", ".ipynb_checkpoints", "__pycache__",
        "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "desktop.ini", ".DS_Store",
    )
)  # fmt: skip


def is_left_alone(name: str) -> bool:
    """Tell whether a file or folder is a system's or a tool's, by its name, and never data."""
    return name.startswith(".") or name.lower() in _LEFT_ALONE
