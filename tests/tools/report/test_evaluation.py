"""The page of an evaluation holds every image, and loads nothing from anywhere."""

from pathlib import Path

from emcfsys_engine.promises import promise_of
from emcfsys_engine.tools.report.evaluation import write_evaluation
from tests.test_promises import score


def test_the_page_sets_expected_beside_true_and_escapes_names(tmp_path: Path) -> None:
    scores = [score("<b>.tif", 0.9, 0.85), score("c.tif", 0.3, 0.6)]
    file = tmp_path / "page.html"
    write_evaluation(file, "model", "mean IoU 0.6", scores, promise_of(scores))
    content = file.read_text()
    assert "&lt;b&gt;.tif" in content
    assert content.index("c.tif") < content.index("&lt;b&gt;.tif")  # the largest difference first
    assert "of 50% of 2 images" in content
    assert "polyline" in content
    assert "http" not in content.replace("http-equiv", "")
    write_evaluation(file, "model", "", [score("a", 0.5, None)], None)  # our own: written anew
    assert "cannot tell" in file.read_text()
