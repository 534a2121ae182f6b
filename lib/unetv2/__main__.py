"""`python -m unetv2 NAME` is `unetv2 NAME`."""

from .cli import main

if __name__ == "__main__":
    main()
