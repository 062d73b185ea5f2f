"""What runs were like beside one another: tables, plots, a page, and a verdict in plain words.

runs.py       run folders -> frozen records of what they say
              (folders.py: which paths those are; lost.py: of runs that are not compared; points.py:
              of curves; circumstances.py: what, where and by what they ran)
measures.py   numbers of one run: time to a loss, loss at some tokens; of several, as
              psdp/intervals.py says, the mean and how far it can be trusted
breakdown.py  what the time of a gradient is made of
rows.py       runs that differ in their seed alone -> a row: mean and interval of each number
scenarios.py  rows -> scenarios: what may be compared (by settings.py), under names (labels.py), and
              with what (baselines.py)
regimes.py, verdict.py, winners.py   a scenario -> sentences, which say what they compare
              (comparing.py); pure
setup.py      a scenario -> what was compared, where and by what
tables.py     rows -> the cells that tables show, as formats.py says
text.py       the short version, for a terminal
plots.py      matplotlib (curves.py: losses);  page.py  jinja2;  files.py  what is written
"""
