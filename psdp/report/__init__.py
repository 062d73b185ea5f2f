"""What runs were like beside one another: tables, plots, a page, and a verdict in plain words.

runs.py      run folders -> frozen records of what they say
measures.py  numbers of one run: time to a loss, loss at some tokens
tables.py    runs -> rows (mean and spread over seeds) in scenarios (what may be compared)
verdict.py   a scenario -> sentences; pure
columns.py   rows -> the cells that tables show
text.py      the short version, for a terminal
plots.py     matplotlib;  page.py  jinja2;  files.py  what is written
"""
