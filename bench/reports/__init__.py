"""Figures and the HTML page, built from records and published numbers.  Imports no torch.

Read figure_definitions.py first: it has one function per figure, which builds the data classes of figure_schema.py.

- run_groups.py groups records; published_panels.py, iso_flop.py and power_law.py provide panels, levels and fits.
- matplotlib_figures.py, label_placement.py and style.py draw; figure_files.py writes files for bench.figures.
- page_data.py, svg.py, page_html.py and the templates in page/ make the page for bench.report.
- run_pictures.py draws the sample grids and curves of a run.
"""
