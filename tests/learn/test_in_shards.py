"""Who executes a run in shards loads torch only where its command needs it."""

from tests.contracts.test_import_cost import loaded_after


def test_a_run_in_shards_is_begun_without_torch() -> None:
    modules = "emcfsys_engine.learn.worker, emcfsys_engine.learn.in_shards"
    loaded = loaded_after(f"import {modules}, emcfsys_engine.shards.task")
    assert not loaded & {"torch", "timm", "segmentation_models_pytorch", "scipy", "skimage"}
