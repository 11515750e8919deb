"""Makes `python -m harness` the command `harness`."""

from harness.commands.main import main

raise SystemExit(main())
