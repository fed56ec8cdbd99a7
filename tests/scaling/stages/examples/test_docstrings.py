"""Pairs cut from Python documents."""

import ast

import pytest

from scaling.stages.examples.docstrings import corpus_pairs, cut_pairs

SOURCE = '''
class Queue:
    """A queue."""

    def put(self, item, *, block=True):
        r"""Put an item   into
        the queue.

        It waits.
        """
        # keep order
        with self.lock:
            self.items.append(item)

    def empty(self):
        """Only a docstring."""

    @property
    def size(self): "On one line"; return 1


async def run(job):
    """Run the job."""
    if job:
        def inner():
            """Do it."""
            return job()
        return inner()
'''


def test_pairs_are_prompt_and_body_at_column_0():
    first = next(cut_pairs(SOURCE))
    assert (
        first.prompt
        == 'def put(self, item, *, block=True):\n    """Put an item into the queue."""\n'
    )
    assert first.completion == (
        "    # keep order\n    with self.lock:\n        self.items.append(item)\n"
    )


def test_functions_without_a_body_are_left_out_and_inner_ones_found():
    heads = [p.prompt.split("(")[0] for p in cut_pairs(SOURCE)]
    assert heads == ["def put", "async def run", "def inner"]


def test_every_pair_parses():
    for pair in cut_pairs(SOURCE):
        assert len(ast.parse(pair.prompt + pair.completion).body) == 1


@pytest.mark.parametrize("text", ["def broken(:\n", "plain words", "x = '\0'"])
def test_text_that_is_no_python_has_no_pairs(text):
    assert list(cut_pairs(text)) == []


def test_held_out_prompts_do_not_occur_in_training(pretrained):
    train, test = corpus_pairs(pretrained("sft").corpus)
    assert train
    assert test
    assert not {p.prompt for p in train} & {p.prompt for p in test}


def test_a_corpus_without_functions_is_refused(tmp_path):
    class Corpus:
        folder = tmp_path

        def train_texts(self):
            return iter(["no code"])

        test_texts = train_texts

    with pytest.raises(ValueError, match="no documented Python function"):
        corpus_pairs(Corpus())
