"""Imports run in one direction: no module needs itself to be read, not even late, in a function."""

import graphlib

import grimp


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = grimp.build_graph(
        "emcfsys_engine", "emcfsys_tui", exclude_type_checking_imports=True, cache_dir=None
    )
    needed = {one: graph.find_modules_directly_imported_by(one) for one in graph.modules}
    assert len(needed) > 300
    list(graphlib.TopologicalSorter(needed).static_order())  # or a CycleError that names the circle
