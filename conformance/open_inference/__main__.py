"""Command line: `python -m conformance.open_inference URL [--grpc HOST:PORT] [--header NAME:VALUE] --model NAME`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from conformance.open_inference.case import Failed, Server
from conformance.open_inference.run import FAILED, read_model, results

PARTS = ("core", "binary", "repository", "strict")


def main() -> int:
    """Run the suite; return 1 if a case failed, 2 if the models cannot be read."""
    options = _parser().parse_args()
    headers = dict(header.split(":", 1) for header in options.header)
    server = Server(options.url, options.grpc, {name: value.strip() for name, value in headers.items()})
    try:
        models = [read_model(server, name) for name in options.model]
        outcomes: Counter[str] = Counter()
        for result in results(server, models, options.part or PARTS):
            outcomes[result.outcome] += 1
            line = f"{result.outcome:8} {result.case.part:10} {result.case.name:22} {result.model:28}"
            print(f"{line} {result.case.requirement if result.outcome == FAILED else ''}".rstrip())
            if result.detail:
                print(f"         {result.detail}")
    except Failed as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        server.close()
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
    return 1 if outcomes[FAILED] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conformance.open_inference", description=__doc__)
    parser.add_argument("url", help="such as http://127.0.0.1:8080")
    parser.add_argument("--grpc", default="", help="host:port or unix:/path; without it, gRPC is skipped")
    parser.add_argument("--header", action="append", default=[], help="NAME:VALUE for each request, also over gRPC")
    parser.add_argument("--model", action="append", required=True, help="a model that returns its input; repeatable")
    parser.add_argument("--part", action="append", choices=PARTS, help="only these parts; repeatable")
    return parser


if __name__ == "__main__":
    sys.exit(main())
