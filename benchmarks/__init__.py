"""Side-by-side speed and quality runs; each prints a table and writes JSON."""
