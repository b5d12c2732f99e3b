"""The language in which operators read what their commands say: gettext's catalogues."""

from __future__ import annotations

import gettext
import sys
from pathlib import Path
from typing import Final

_DOMAIN: Final = "qaworker"
_CATALOGUES: Final = Path(__file__).parent / "locale"


def bind() -> None:
    """Speak Japanese where the locale does and the terminal can show it, else English.

    The catalogue has messages of click too, which then come from there. The locale itself need not
    be installed: gettext looks at LANGUAGE, LC_ALL, LC_MESSAGES and LANG alone.
    """
    try:
        "日本語".encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return
    gettext.bindtextdomain(_DOMAIN, str(_CATALOGUES))
    gettext.textdomain(_DOMAIN)
