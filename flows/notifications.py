"""Notifications: apprise's addresses in PAWPRINT_NOTIFY, separated by blanks (https://appriseit.com/services/).

send("pawprint failed", "Why, in a sentence.")

The addresses hold secrets, so none is ever printed, and apprise, which prints them, logs nothing.
"""

import logging
import os

from apprise import Apprise, NotifyType


def send(title: str, text: str, good: bool = False) -> bool:
    """Notify every address; False, and a line that names it, where one was not reached. Never raises."""
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    kind = NotifyType.SUCCESS if good else NotifyType.FAILURE
    reached = True
    for number, address in enumerate(os.environ.get("PAWPRINT_NOTIFY", "").split(), start=1):
        try:
            one = Apprise()
            sent = one.add(address) and bool(one.notify(body=text, title=title, notify_type=kind))
            why = "could not be reached" if len(one) else "is no address that apprise knows"
        except Exception as error:  # whatever a service's plugin does, the run is not to fail for it
            sent, why = False, f"could not be reached ({type(error).__name__})"
        if not sent:
            reached = False
            print(f"PAWPRINT_NOTIFY: address {number} ({address.partition('://')[0][:20]}) {why}.", flush=True)
    return reached
