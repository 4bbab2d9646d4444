//! Signs and verifies mail (DKIM), and the sender-authentication library of the workspace.

fn main() {}
