//! Lays what the operator wrote over a program's defaults.
//!
//! Reading alone takes the defaults of each section's type; a program may have other ones (its own
//! socket in `[server]`). So that a key which is not written has the value that `default-config`
//! shows, whatever else its section holds, tables are merged key by key. Lists and single values
//! are the operator's as a whole, and so is what the outline does not understand.

use toml::{Table, Value};

use super::outline::{Node, Shape};

/// `written` over `defaults`, at the place `node`.
pub(crate) fn lay(defaults: Table, written: Table, node: Node<'_>) -> Table {
    let mut merged = defaults;
    for (key, value) in written {
        let below = node.child(&key);
        let value = match (merged.remove(&key), value, below) {
            (Some(Value::Table(defaults)), Value::Table(written), Some(node))
                if matches!(node.shape(), Shape::Struct(_) | Shape::Map(_)) =>
            {
                Value::Table(lay(defaults, written, node))
            }
            (_, value, _) => value,
        };
        merged.insert(key, value);
    }
    merged
}
