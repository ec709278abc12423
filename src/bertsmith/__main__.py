"""`python -m bertsmith` is the same as `bertsmith`."""

from bertsmith.cli import main

main()
