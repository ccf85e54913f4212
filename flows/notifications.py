"""A word to people: apprise's addresses in PAWPRINT_NOTIFY, separated by blanks (https://appriseit.com/services/).

send("pawprint failed", "Why, in a sentence.")

The addresses hold secrets, so nothing here writes one anywhere, and apprise, which does, is kept quiet.
"""

import logging
import os

from apprise import Apprise, NotifyType


def send(title: str, text: str, good: bool = False) -> bool:
    """Tell every address; False, and a line that says which, where one was not reached. Never raises."""
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    kind = NotifyType.SUCCESS if good else NotifyType.FAILURE
    reached = True
    for number, address in enumerate(os.environ.get("PAWPRINT_NOTIFY", "").split(), start=1):
        try:
            one = Apprise()
            told = one.add(address) and bool(one.notify(body=text, title=title, notify_type=kind))
            why = "could not be told" if len(one) else "is no address that apprise knows"
        except Exception as error:  # whatever a service's plugin does, the run is not to fail for it
            told, why = False, f"could not be told ({type(error).__name__})"
        if not told:
            reached = False
            print(f"PAWPRINT_NOTIFY: address {number} ({address.partition('://')[0][:20]}) {why}.", flush=True)
    return reached
