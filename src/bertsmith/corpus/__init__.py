"""Raw text -> sections: what the user named, read as it is.

    files.py      finds files and undoes compression
    encoding.py   bytes -> lines of text
    formats.py    what a file is; layout.py: plain text -> paragraphs
    tables.py     rows of JSON and Parquet, delimited.py: of CSV; records.py: rows -> paragraphs
    builtin.py    the documentation on this machine, by docstrings.py and prose.py; hub.py: data sets of the hub
    documents.py  paragraphs -> documents -> sections, duplicates left out by seen.py
    sentences.py  a section -> its sentences

Everything streams: memory does not grow with the text, but for about 16 bytes a
document to know duplicates by. Nothing that cannot be read stops a pass; it is
counted in the `CorpusReport`.
"""

from bertsmith.corpus.documents import Section
from bertsmith.corpus.files import SourceFile
from bertsmith.corpus.reading import Corpus, open_corpus
from bertsmith.corpus.report import CorpusReport
from bertsmith.corpus.sentences import split_sentences

__all__ = ["Corpus", "CorpusReport", "Section", "SourceFile", "open_corpus", "split_sentences"]
