"""A process of the local engine: runs the parts whose numbers it reads on stdin, and answers each in a line of JSON."""

from __future__ import annotations

import json
import os
import sys

from crystalformers.errors import CrystalformersError
from crystalformers.screening.parts import Job
from crystalformers.signals import Terminated, raise_on_sigterm


def main() -> None:
    """Run parts until stdin ends, or nobody is there to read the answer."""
    raise_on_sigterm()
    try:
        _answer()
    except Terminated as stop:
        sys.exit(128 + stop.signal)


def _answer() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    job = Job(**json.loads(sys.argv[1]))
    for line in sys.stdin:
        try:
            job.run(int(line))
            answer = {}
        except (CrystalformersError, OSError) as error:
            answer = {"error": str(error)}
        try:
            os.write(answers, (json.dumps(answer) + "\n").encode())
        except BrokenPipeError:
            return


if __name__ == "__main__":
    main()
