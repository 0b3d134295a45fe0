"""The report of a run: one HTML page that needs nothing else.

    facts           what the tables tell, as plain data
    drawings        molecules in two and three dimensions
    distributions   histograms of numbers, counted piece by piece
    plots           histograms and bars as SVG
    page            the page of one run
    compare         the page of two runs
    write           where pages go, and the command `mlff-screen report`

3Dmol-min.js is 3Dmol.js (Rego, Koes, Bioinformatics 31, 1322 (2015)) as the npm package `3dmol`
2.5.5 ships it; its licence, BSD-3-Clause, is 3Dmol-LICENSE.txt.
"""
