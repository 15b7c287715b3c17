"""The `workerbee` command: a thin layer over the library, for who has no script at hand."""
