"""From functions to records: the Router, the markers, the signatures. Nothing is resolved here."""
