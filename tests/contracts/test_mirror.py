"""Whoever opens a module finds its tests under its name."""

from pathlib import Path

from emcfsys_engine import manual

TESTS = Path(__file__).parents[1]
ROOT = Path(manual.__file__).parents[2]
_NO_CODE = {"__init__.py", "__main__.py"}  # front doors, which every test goes through


def modules() -> list[tuple[Path, Path]]:
    """Return each module with where its tests belong; those of the interface are in tui/."""
    found: list[tuple[Path, Path]] = []
    for package, below in (("emcfsys_engine", TESTS), ("emcfsys_tui", TESTS / "tui")):
        for module in sorted((ROOT / package).rglob("*.py")):
            room = module.relative_to(ROOT / package).parent
            if module.name not in _NO_CODE:
                found.append((module, below / room / f"test_{module.name}"))
    return found


def test_every_module_has_tests_of_its_name() -> None:
    missing = [
        str(tests.relative_to(TESTS))
        for _, tests in modules()
        if not tests.is_file() or "def test_" not in tests.read_text("utf-8")
    ]
    assert len(modules()) > 100
    assert not missing


def test_no_module_has_more_than_500_lines() -> None:
    lines = {module: len(module.read_text().splitlines()) for module, _ in modules()}
    assert not {str(module): number for module, number in lines.items() if number > 500}
