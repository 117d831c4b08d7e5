"""What systems and tools leave in folders of images, and what is never data, by its name."""

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
