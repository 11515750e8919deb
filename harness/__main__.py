"""`python -m harness` is the command `harness`."""

from harness.commands.main import main

raise SystemExit(main())
