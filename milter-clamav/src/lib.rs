//! Scans mail through clamd while it arrives.
