"""`python -m modelpress`: the same as the command `modelpress`."""

from modelpress.cli.main import main

main()
