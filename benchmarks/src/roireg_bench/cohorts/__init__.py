"""Trials of cohorts: what a pair costs, how work grows with workers, what survives, what a template brings.

``roireg bench cohort TRIAL`` runs one. Pairs are generated, but for the atlas, which is given a folder of images.
"""
