"""Lists the saved state of runs that were begun and not finished, and removes it if asked to.

    python scripts/remove_state.py output_dir=outputs
    python scripts/remove_state.py output_dir=outputs --remove

Without its state a run starts from the beginning. What another process is working on is left alone.
"""

from functools import partial

from xlt.commands.subcommands import carry_out_named

main = partial(carry_out_named, "state")

if __name__ == "__main__":
    main()
