"""`python -m xlt`, for launchers that want a module: `torchrun --nproc-per-node 2 -m xlt experiment=...`."""

from xlt.commands.entry import main

main()
