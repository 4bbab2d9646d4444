//! Signs and verifies mail (DKIM), and the sender-authentication library of the workspace.

pub mod auth;
