"""The language in which people read what start, stop and status say: gettext's catalogues."""

from __future__ import annotations

import gettext
from pathlib import Path
from typing import Final

_DOMAIN: Final = "qaworker"
_CATALOGUES: Final = Path(__file__).parent / "locale"


def bind() -> None:
    """Speak the language of the locale where there is a catalogue for it, else English."""
    gettext.bindtextdomain(_DOMAIN, str(_CATALOGUES))
    gettext.textdomain(_DOMAIN)
