"""What runs were like beside one another: tables, plots, a page, and a verdict in plain words.

runs.py       run folders -> frozen records of what they say
measures.py   numbers of one run: time to a loss, loss at some tokens
rows.py       runs that differ in their seed alone -> a row: mean and spread of each number
scenarios.py  rows -> scenarios: what may be compared (by settings.py), under names (labels.py), and
              with what (baselines.py)
regimes.py, verdict.py   a scenario -> sentences; pure
tables.py     rows -> the cells that tables show, as formats.py says
text.py       the short version, for a terminal
plots.py      matplotlib;  page.py  jinja2;  files.py  what is written
"""
