"""`python -m workerbee` is `workerbee`."""

from workerbee.command.main import main

main()
