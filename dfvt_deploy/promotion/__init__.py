"""`versions`, `promote` and `rollback`: which version of a model is live, why, and since when."""
