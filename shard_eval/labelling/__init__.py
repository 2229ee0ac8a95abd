"""People rate responses, blind: draw a sample, serve a local page, keep each rating at once, export the labels.

    shard judge label RUN -n 100

`sample` draws what is rated, `questions` says what is asked, `store` keeps the ratings, `server` and the page ask,
`export` writes the labels for `shard judge calibrate --on` and `shard show --labels`.
"""
