"""python -m tests.fuzz --cases 3000 --seed 1: the campaign at length; exit 1 where there is a
fault.
"""

import argparse
import sys
import time

from tests.fuzz.campaign import run

parser = argparse.ArgumentParser()
parser.add_argument("--cases", type=int, default=3000)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument(
    "--first", type=int, default=0, help="the number of the first case, to run one again"
)
asked = parser.parse_args()
start = time.perf_counter()
outcome = run(asked.cases, asked.seed, asked.first)
print(f"{outcome.table()}\n{time.perf_counter() - start:.0f} s")
for fault in outcome.faults[:40]:
    print(f"case {fault.case}, {fault.door}, {fault.change}: {fault.what[:400]}")
sys.exit(bool(outcome.faults))
