"""`python -m budmlx` is the command `budmlx`."""

from budmlx.cli import main

if __name__ == "__main__":
    main()
