"""What is no mask is refused before it is believed; of what was not changed nothing is asked."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.images.origins import Maker
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_files import digest_of_output
from emcfsys_engine.project import load_project
from emcfsys_engine.tools.corrections import refuse_what_is_no_mask
from tests.hotfolder.test_review import predicted, record


def test_values_are_those_of_the_model_that_made_the_mask_and_its_image_may_be_away(
    tmp_path: Path,
) -> None:
    for name in ("images", "incoming", "predictions"):
        (tmp_path / name).mkdir()
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n[[data]]\nimages = "images"\n'
        'masks = "images"\n[hotfolder]\nwatch = "incoming"\n'
    )
    project, root, output = load_project(tmp_path), tmp_path / "incoming", tmp_path / "predictions"
    ledger = Ledger(output, owner="x")
    record(ledger, predicted("a.png", 0.5), predicted("b.png", 0.5))
    ledger.close()
    masks = [output / name for name in ("a.png", "b.png")]
    for mask in masks:
        Image.fromarray(np.zeros((8, 9), np.uint8)).save(mask)
    maker = Maker(model="r", classes={"a": 0, "b": 5})
    book = OutputBook(output)
    book.note({masks[0]: digest_of_output(masks[0])}, maker=maker)
    book.note({masks[1]: digest_of_output(masks[1])})

    def check(*names: str) -> None:
        refuse_what_is_no_mask(project, root, output, names)

    Image.fromarray(np.full((8, 9), 5, np.uint8)).save(masks[0])
    check("a.png", "b.png")
    Image.fromarray(np.full((8, 9), 5, np.uint8)).save(masks[1])
    with pytest.raises(AnnotationError, match=r"b\.png.*5"):
        check("a.png", "b.png")
    check("a.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(root / "a.png")
    with pytest.raises(AnnotationError, match="is 9 × 8 pixels, its image 8 × 8"):
        check("a.png")
