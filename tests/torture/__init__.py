"""A campaign against the scripts: kills, damage, hostile images and words, full disks, company.

    make torture                                # all of it, and the table results/reliability.md
    .venv/bin/python -m tests.torture flips     # one kind, and only its rows on the screen

Each trial draws from its own seed, so that any of them can be repeated alone:

    .venv/bin/python -m tests.torture flips 17
"""
