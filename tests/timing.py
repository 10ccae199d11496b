"""How long things may take in a test that shows a promise about time.

The promises are for a machine that does nothing else. `make bench` measures them; a test must tell
a promise that is broken from a machine that is busy.
"""

import os
import sys


def allowed(limit: float) -> float:
    """`limit`, longer by as much as other work takes of the machine's cores."""
    return limit * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def measured(limit: float) -> float:
    """`limit` of CPU time, four times as long where coverage counts each line as it runs."""
    counted = sys.gettrace() is not None or "coverage" in sys.modules
    return limit * (4 if counted else 1)
