//! Scores mail by a table of checks and acts by thresholds.
