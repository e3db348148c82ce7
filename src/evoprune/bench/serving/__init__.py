"""`evoprune bench --server`: what a running server does at several numbers of clients, pruned or not."""
