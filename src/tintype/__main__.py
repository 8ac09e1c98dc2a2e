"""``python -m tintype``, as torchrun starts it."""

from tintype.cli import program

program()
