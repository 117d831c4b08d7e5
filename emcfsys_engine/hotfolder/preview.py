"""What a watch would do, without doing it."""

from pathlib import Path
from typing import Any

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.hotfolder.ledger import read_ledger
from emcfsys_engine.hotfolder.model_choice import resolve_model
from emcfsys_engine.hotfolder.notifier import choose_backend
from emcfsys_engine.hotfolder.scan import Rules, Scanner
from emcfsys_engine.project import Project


def what_it_would_do(project: Project) -> dict[str, Any]:
    """Return the model, the way of watching, and the files that would be segmented."""
    settings = project.hotfolder
    root = project.folder / (settings.watch or "")
    output = project.folder / settings.output
    backend, why = choose_backend(root, settings.backend)
    try:
        model = str(resolve_model(project, settings.model))
    except EmcfError as error:
        model = str(error)
    known = {entry.path: entry for entry in read_ledger(output)}
    rules = Rules(
        root=root,
        output=Path(output),
        settle_s=0,
        closed_settle_s=0,
        min_bytes=settings.min_bytes,
        ignore=settings.ignore,
    )
    scanner = Scanner(rules, known)
    scanner.scan()
    waiting = sorted(scanner.settling)
    lines = [
        f"watches {root}: {'it does not exist' if scanner.offline else f'{backend}, {why}'}",
        f"model {model}",
        f"writes to {output}",
        f"{len(waiting)} to segment, {len(known)} known",
        *(f"  {path}" for path in waiting[:20]),
    ]
    if len(waiting) > 20:
        lines.append(f"  … and {len(waiting) - 20} more")
    return {"backend": backend, "model": model, "waiting": waiting, "lines": lines}
