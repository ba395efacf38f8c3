"""`python -m tunesmith` is the `tunesmith` command."""

from tunesmith.cli.app import main

if __name__ == "__main__":
    main()
