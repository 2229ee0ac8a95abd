"""SaRO-style training: reasoning with a policy is learned, then replies that reflect on safety early are preferred.

Mou et al. 2025, arXiv:2504.09420; data sets, prompts and settings of the paper are not known here, hence "-style".
"""
