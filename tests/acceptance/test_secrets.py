"""A canary: the key and the text of chunks appear nowhere they should not."""

from __future__ import annotations

import subprocess
import sys

from tests.acceptance.site import Site
from tests.support.waiting import wait_until

KEY = "sk-canary-1234567890abcdefXYZ"
# Words of each document, English and Japanese.
TEXT = ("night trains stop", "夜行列車が停まる")
WITH_A_MISSPELT_FIELD = """
from qaworker.tasks import generate_qa_for_chunk_async
generate_qa_for_chunk_async.delay({"chunk_id": "c", "text": "night trains stop", "txt": "夜行列車が停まる"})
"""


def test_no_key_and_no_text_is_shown(site: Site) -> None:
    site.api_key = KEY
    site.simulate(
        *("--api-key", KEY, "--fault", "malformed=0.3", "--fault", "refusal=0.2"),
    )
    worker = site.worker(QAWORKER_LOG_LEVEL="debug")
    client = site.generate(site.dataset(60), "celery", "--use-celery", "-v")
    others = [
        site.run([sys.executable, "-c", WITH_A_MISSPELT_FIELD]),
        site.generate(site.dataset(60, first=1000), "local", "-v"),
        site.generate(site.dataset(2), "wrong", OPENAI_API_KEY=f"{KEY}-wrong"),
        site.command("check", "--call"),
        site.command("config"),
        *(
            site.run([sys.executable, "-m", "celery", "-A", "qaworker.app", "inspect", what])
            for what in ("active", "stats", "conf")
        ),
    ]
    shown: list[str] = []
    while client.exit_code is None:
        shown.append(subprocess.check_output(["ps", "axww", "-o", "args"], text=True))
    # 1: refused chunks are dead; 69: the wrong key.
    site.finish(client, *others, exit_codes=(0, 1, 69))
    wait_until(lambda: "message_invalid" in worker.output, 20, "the misspelt task")
    worker.terminate()
    assert worker.wait_exit(20) == 0

    for process in site.processes:
        assert KEY not in process.output
        assert not any(words in process.output for words in TEXT), process.output
    # The simulator's own command line says which key it wants.
    lines = [line for line in "\n".join(shown).splitlines() if " simulate " not in line]
    assert any(" worker " in line for line in lines)
    assert not any(KEY in line for line in lines)
    for run in ("celery", "local", "wrong"):
        for file in (site.directory / run).iterdir():
            assert KEY.encode() not in file.read_bytes(), file
    for key in site.redis.keys("*"):
        assert KEY.encode() not in key
        assert KEY.encode() not in site.redis.dump(key)
