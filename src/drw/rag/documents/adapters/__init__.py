"""Parsers of file formats, one library for each module.

To add a parser for a file type, write a module here with a subclass of `drw.rag.documents.ports.Parser`. Add the module
with its file extensions to `PARSERS` in `drw.rag.documents.parsing.file_types`.
"""
