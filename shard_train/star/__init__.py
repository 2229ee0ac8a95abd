"""STAR scores: how safe a reply is *so far*, after every few words (Peng et al. 2025, arXiv:2505.17196).

`chunks` cuts a reply, `guards` and `reading` say how safe each prefix is, `calibration` how far to trust them, and
`scoring` does it for a data file. Training with the scores is `shard_train.shaping`.
"""
