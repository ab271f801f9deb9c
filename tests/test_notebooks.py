from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
VERDICTS = ("members: Used", "unseen: No evidence")
SAID = {
    "wrap_a_training_script": VERDICTS,
    "verify_and_read_the_report": (*VERDICTS, "not a picture.png", "passed", "report.html"),
    "reproduce_a_row": ("balanced_accuracy", "accuracy: plain"),
}
SMALL = """ARCH, SIDE = "resnet10t", 32
MEMBERS, EXTERNAL, CALIBRATION, UNSEEN = 128, 256, 100, 100
EPOCHS, HEAD_EPOCHS = 2, 1
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq", "ignore:Proactor event loop")
@pytest.mark.parametrize("name", SAID)
def test_runs_from_top_to_bottom(name, tmp_path, request):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    for place, cell in enumerate(notebook.cells):
        if "parameters" in cell.metadata.get("tags", ()):
            data = request.getfixturevalue("data_root").resolve()
            notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(f"DATA = {str(data)!r}\n{SMALL}"))
            break
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output
    )
    for said in SAID[name]:
        assert said in printed


def test_every_notebook_is_run():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SAID)
