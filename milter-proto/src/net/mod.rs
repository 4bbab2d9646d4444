//! The protocol on tokio: server and client.

mod address;

pub use address::{Address, InvalidAddress};
