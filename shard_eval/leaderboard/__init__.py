"""Published boards: a spec and finished results -> tables -> Markdown, CSV, JSON, LaTeX and one HTML page.

`spec` reads the TOML, `scores` computes every number, `columns` makes cells of them, `table` holds the result, and the
renderers (`render`, `page`, `pictures`) are pure functions of a `table.Board`. Nothing here calls a model.
"""
