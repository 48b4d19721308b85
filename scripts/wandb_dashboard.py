"""Creates the W&B workspace of a table's runs; where there is no account, says what it would create.

    python scripts/wandb_dashboard.py table=quickstart
    python scripts/wandb_dashboard.py table=4.2 scale=thesis tracker.project=xlt tracker.entity=TEAM

Scores by language and system with their spread over seeds, learning curves by phase, and every evaluation; of the runs
that `scripts/reproduce_table.py table=NAME tracker=wandb` has sent or, where another table had made them, tagged.
"""

from xlt.commands.dashboard import main

if __name__ == "__main__":
    main()
