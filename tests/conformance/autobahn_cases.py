"""Runs the cases of one Autobahn section against a server; a part of ./autobahn, which sets the time limit.

Usage: python autobahn_cases.py URL SECTION, with `kosoku` importable.

Prints one JSON object a line: `{"case": id}` when a case begins and
`{"case": id, "behavior": ..., "close": ..., "reason": ...}` when it has ended, so that whoever reads this knows
which case was under way when the server stopped answering.
"""

import asyncio
import json
import os
import sys

from kosoku import FailureError, run_fuzzingclient
from kosoku.cases import CASES


async def main(url, section):
    for case in (case for case in CASES if case.split(".")[0] == section):
        say(case=case)
        try:
            results = await run_fuzzingclient(url, [case])
        except FailureError as failure:
            results = failure.results
        assert [result.case_id for result in results] == [case], f"asked for {case}, got {results}"
        result = results[0]
        say(
            case=case,
            behavior=result.behavior.value,
            close=result.behavior_close.value,
            reason=f"{result.result} {result.result_close}",
        )


def say(**line):
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    # Everything is said. kosoku's threads do not always survive the end of the interpreter: one process in twenty to
    # fifty is aborted there, whatever server it spoke with.
    os._exit(0)
