"""``python -m tintype``, as torchrun starts it."""

from tintype.cli import main

main()
