"""Parsers of file formats, one library for each module.

To add a parser for a file type (MSG is in `mail`): write a module here with a subclass of
`drw.rag.documents.ports.Parser`, and
name the module with its file endings in `PARSERS` of `drw.rag.documents.parsing.file_types`.
"""
