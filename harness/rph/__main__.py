"""`python -m rph`."""

from rph.cli import main

if __name__ == "__main__":
    main()
