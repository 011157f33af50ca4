"""``python -m crosseai``: what the workflow's rules call."""

from crosseai.cli import main

if __name__ == "__main__":
    main()
