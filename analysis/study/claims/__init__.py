"""The claims of the page of ``python -m train.study --paper``: analysis.study.claims.page."""
