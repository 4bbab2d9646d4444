//! Mistakes in configuration files, and what is said about them.
