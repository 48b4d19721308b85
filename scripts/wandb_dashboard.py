"""Creates the W&B workspace of a table's runs. Without an account, it prints what it would create.

    python scripts/wandb_dashboard.py table=quickstart
    python scripts/wandb_dashboard.py table=4.2 scale=thesis tracker.project=xlt tracker.entity=TEAM

The workspace shows scores by language and system with their spread over seeds, learning curves by phase, and all
evaluations. It has the runs that `scripts/reproduce_table.py table=NAME tracker=wandb` sent to W&B, and those that it
tagged because another table had sent them before.
"""

from functools import partial

from xlt.commands.subcommands import carry_out_named

main = partial(carry_out_named, "dashboard")

if __name__ == "__main__":
    main()
