"""The retrieval example, on an exported model, without a network."""

import importlib.util

import pytest

from scaling import export
from scaling.export import ExportConfig
from scaling.study.places import cell_folder
from scaling.train.trunk import train_trunk

from .test_commands import ROOT

for needed in ("langchain_huggingface", "sklearn"):
    pytest.importorskip(needed, reason=f"needs {needed}; install scaling-laws[rag]")
pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries warn of their own ways


@pytest.fixture
def retrieval():
    spec = importlib.util.spec_from_file_location("retrieval", ROOT / "examples/retrieval.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_exported_model_answers_with_what_was_retrieved(retrieval, make_cell, tmp_path):
    cell = make_cell()
    train_trunk([cell])
    export.main(ExportConfig(checkpoint=str(cell_folder(cell)), out=str(tmp_path / "out")))
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in (("a.txt", "cheese is made of milk"), ("b.md", "steel is made of iron")):
        (folder / name).write_text(text)
    asking = retrieval.chain(tmp_path / "out", folder, k=1, max_new_tokens=4)
    found = asking.invoke("what steel?")
    assert [d.metadata["file"] for d in found["passages"]] == ["b.md"]
    assert isinstance(found["answer"], str)
    assert asking.invoke("what steel?")["answer"] == found["answer"]
    with pytest.raises(ValueError, match="leaves no room in the context of 32 tokens"):
        asking.invoke("steel " * 40)


def test_a_folder_without_text_is_said(retrieval, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no file of \.txt, \.md"):
        retrieval.passages(tmp_path)


def test_passages_are_cut_at_line_ends(retrieval, tmp_path):
    (tmp_path / "a.py").write_text("".join(f"line {i:03}\n" for i in range(100)))
    found = retrieval.passages(tmp_path)
    assert len(found) > 2
    assert "\n".join(d.page_content for d in found).splitlines() == [
        f"line {i:03}" for i in range(100)
    ]
