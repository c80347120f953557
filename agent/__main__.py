"""``python -m agent``: the command ``fwagent``, where it is not on PATH."""

from agent.cli import main

if __name__ == "__main__":
    main()
