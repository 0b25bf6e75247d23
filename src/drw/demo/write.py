"""Generates the two binary documents of the demo: `python -m drw.demo.write`."""

from __future__ import annotations

from drw.demo import DOCUMENTS
from drw.demo.docx import docx
from drw.demo.pdf import pdf

RESULTS = [
    [
        "Harbour Lane Trading Ltd",
        "Quarterly report",
        "For the quarter ended December 31, 2025",
        "",
        "Net trading revenue was USD 61.4 million, up 9 percent from the quarter before.",
        "Operating expenses were USD 38.2 million. Headcount at the end was 214.",
    ],
    [
        "Revenue by Desk",
        "In millions of US dollars",
        "Three Months Ended",
        "                        Dec 31, 2025    Sep 30, 2025",
        "Rates                           17.8            16.1",
        "Equity options                  21.5            19.9",
        "Energy                           8.3             9.0",
        "Market making                   13.8            11.3",
        "Total net trading revenue       61.4            56.3",
    ],
    [
        "Capital",
        "Regulatory capital stood at USD 148.0 million against a requirement of USD 96.5 million.",
        "The firm paid no dividend in the quarter.",
    ],
]

GUIDE = [
    "# Onboarding guide for new traders",
    "Harbour Lane Trading, version of January 2026.",
    "## Your first week",
    "On your first day compliance explains personal account dealing: positions of your own are declared within"
    " five working days, and trades in anything that your desk trades need approval beforehand.",
    "## Systems",
    [
        ["System", "What it is for", "Access is granted by"],
        ["Order gateway", "Sends orders to the exchanges", "Head of desk"],
        ["Risk monitor", "Shows limits and their use", "Market risk"],
        ["Research library", "Finds answers in the firm's documents", "Everybody has it"],
    ],
    "## Trading limits for beginners",
    "A new trader may hold at most USD 250,000 of delta and no short options overnight for the first three months.",
]


def main() -> None:
    """Write both documents."""
    (DOCUMENTS / "quarterly-report-2025-q4.pdf").write_bytes(pdf(RESULTS))
    (DOCUMENTS / "onboarding-guide.docx").write_bytes(docx(GUIDE))


if __name__ == "__main__":
    main()
