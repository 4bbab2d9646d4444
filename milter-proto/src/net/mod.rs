//! The protocol on tokio: server and client.
