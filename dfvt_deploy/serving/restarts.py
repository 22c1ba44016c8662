"""How often, and how soon, a server that ended is started again."""

import time
from collections import deque

from ..errors import ServerFailed
from ..progress import warn
from .server_log import ServerLog

#: Restarts in ten minutes after which a server that ends again is given up.
_MOST_RESTARTS = 30
_PERIOD_S = 600

#: Seconds before the second restart within a minute; each further one waits twice as long.
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 8.0


class Restarts:
    """The moments of a server's restarts within the last ten minutes."""

    def __init__(self) -> None:
        self._moments: deque[float] = deque()

    def pause(self, death: str, log: ServerLog) -> None:
        """Say how the server ended and that it is started again, and wait until it may be. Raises
        ServerFailed where it was started again too often."""
        now = time.monotonic()
        while self._moments and now - self._moments[0] > _PERIOD_S:
            self._moments.popleft()
        if len(self._moments) >= _MOST_RESTARTS:
            raise ServerFailed(
                f"{death}, after {len(self._moments)} restarts within {_PERIOD_S // 60} minutes; "
                f"{log.last_line()}"
            )
        lately = sum(now - moment < 60 for moment in self._moments)
        delay = min(_FIRST_DELAY_S * 2 ** (lately - 1), _LONGEST_DELAY_S) if lately else 0.0
        warn(f"{death}; starting Triton again" + (f" in {delay:g} s" if delay else ""))
        time.sleep(delay)
        self._moments.append(time.monotonic())
