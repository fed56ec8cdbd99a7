"""Ask an exported model about a folder of text: index, retrieve, prompt, through LangChain.

    pip install 'scaling-laws[rag]'
    python -m scaling.export checkpoint=runs/quick/final/sft out=exported
    python examples/retrieval.py exported FOLDER 'def read(path):' [--passages 2] [--tokens 48]

Nothing is fetched: passages are found by TF-IDF of words and their parts (scikit-learn) in
LangChain's in-memory store, and the model answers through its Hugging Face pipeline.
"""

import argparse
import sys
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_huggingface import HuggingFacePipeline
from sklearn.feature_extraction.text import TfidfVectorizer
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

SUFFIXES = (".txt", ".md", ".py", ".rst")
PASSAGE = 300  # characters, cut at line ends
SEPARATOR = "<|sep|>"  # ends a prompt, as in fine-tuning


class TfidfEmbeddings(Embeddings):
    """Passages as TF-IDF vectors of the characters within words."""

    def __init__(self, texts: list[str]) -> None:
        self.vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit(texts)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector a text."""
        return self.vectorizer.transform(texts).toarray().tolist()

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        return self.embed_documents([text])[0]


def passages(folder: Path) -> list[Document]:
    """Cut the folder's files into passages; FileNotFoundError where there is no text."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES):
        part = ""
        for line in [*path.read_text(encoding="utf-8", errors="replace").splitlines(True), ""]:
            if part and (not line or len(part) + len(line) > PASSAGE):
                found.append(Document(page_content=part.strip("\n"), metadata={"file": path.name}))
                part = ""
            part += line
    if not found:
        raise FileNotFoundError(f"{folder} has no file of {', '.join(SUFFIXES)}; name another one")
    return found


def chain(exported: Path, folder: Path, *, k: int = 2, max_new_tokens: int = 48) -> Runnable:
    """Return what maps a question to {question, passages, answer}."""
    documents = passages(folder)
    texts = [d.page_content for d in documents]
    store = InMemoryVectorStore.from_documents(documents, TfidfEmbeddings(texts))
    tokenizer = AutoTokenizer.from_pretrained(exported)
    model = AutoModelForCausalLM.from_pretrained(exported)
    room = model.config.max_position_embeddings - max_new_tokens
    answering = HuggingFacePipeline(
        pipeline=pipeline(
            "text-generation",
            model=model,
            tokenizer=tokenizer,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            return_full_text=False,
        )
    )

    def prompt(asked: dict) -> str:
        """Put as much of the passages before the question as the model's context holds."""
        question = f"\n\n{asked['question']}{SEPARATOR}"
        kept = room - len(tokenizer(question).input_ids)
        if kept < 0:
            raise ValueError(
                f"the question leaves no room in the context of {room + max_new_tokens} tokens;"
                " shorten it or ask for fewer tokens"
            )
        context = "\n\n".join(d.page_content for d in asked["passages"])
        cut = tokenizer(context, truncation=True, max_length=kept).input_ids if kept else []
        return tokenizer.decode(cut) + question

    retriever = store.as_retriever(search_kwargs={"k": k})
    asked = {"passages": retriever, "question": RunnablePassthrough()}
    return asked | RunnablePassthrough.assign(answer=RunnableLambda(prompt) | answering)


def main() -> int:
    """Print the passages and the answer."""
    parser = argparse.ArgumentParser(description="Retrieve from a folder and ask a model.")
    parser.add_argument("exported", type=Path, help="the folder that scaling.export wrote")
    parser.add_argument("folder", type=Path, help="text files to index")
    parser.add_argument("question")
    parser.add_argument("--passages", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=48)
    given = parser.parse_args()
    try:
        asking = chain(given.exported, given.folder, k=given.passages, max_new_tokens=given.tokens)
        found = asking.invoke(given.question)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for passage in found["passages"]:
        sys.stdout.write(f"--- {passage.metadata['file']}\n{passage.page_content}\n")
    sys.stdout.write(f"--- answer\n{found['answer']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
