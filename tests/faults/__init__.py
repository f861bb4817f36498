"""Faults, tried: damaged files of runs, and data as nobody should write them. See docs/reliability.md.

python -m tests.faults.fuzz_records --records=200000
python -m tests.faults.damage runs/finished
"""
