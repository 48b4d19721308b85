"""Lists the saved state of runs that were begun and not finished, and removes it if asked to.

    python scripts/remove_state.py output_dir=outputs
    python scripts/remove_state.py output_dir=outputs --remove

Without its state a run starts from the beginning. What another process is working on is left alone.
"""

from xlt.commands.state import main

if __name__ == "__main__":
    main()
