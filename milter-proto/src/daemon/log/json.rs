//! One JSON object a line: time, level, message and fields side by side.
//!
//! A field of [`STRUCTURED`] is JSON itself when its value, displayed with `{:#}`, is; so a value
//! can be words in a text and a list here. Everything else is a number, a truth, or a string.

use std::fmt::{self, Debug, Write};

use serde::de::IgnoredAny;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Fields whose values may be lists or objects.
const STRUCTURED: &[&str] = &["filters"];

/// Writes the lines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let about = event.metadata();
        let mut object = Object(String::new());
        object.put("timestamp", &string(&time));
        object.put("level", &string(about.level().as_str()));
        event.record(&mut object);
        object.put("target", &string(about.target()));
        writeln!(writer, "{}}}", object.0)
    }
}

/// An object in the making.
struct Object(String);

impl Object {
    fn put(&mut self, name: &str, json: &str) {
        let before = if self.0.is_empty() { '{' } else { ',' };
        // Writing into a string cannot fail.
        let _ = write!(self.0, "{before}{}:{json}", string(name));
    }
}

fn string(text: &str) -> String {
    // A string can always be written.
    serde_json::to_string(text).unwrap_or_default()
}

impl Visit for Object {
    fn record_f64(&mut self, field: &Field, value: f64) {
        let json = serde_json::to_string(&value).unwrap_or_default();
        self.put(field.name(), &json);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), &value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), &value.to_string());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), &string(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if STRUCTURED.contains(&field.name()) {
            let json = format!("{value:#?}");
            if serde_json::from_str::<IgnoredAny>(&json).is_ok() && !json.contains('\n') {
                return self.put(field.name(), &json);
            }
        }
        self.put(field.name(), &string(&format!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use tracing::info;
    use tracing::subscriber::with_default;
    use tracing_subscriber::fmt as layer;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Words in a text, a list in JSON.
    struct Both;

    impl fmt::Display for Both {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(if f.alternate() { "[{\"a\":1}]" } else { "a=1" })
        }
    }

    /// What an event is as text, and as JSON.
    fn both(say: impl Fn()) -> (String, Value) {
        let (text, json) = (Lines::default(), Lines::default());
        let (to_text, to_json) = (text.clone(), json.clone());
        let plain = layer::layer()
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_writer(move || to_text.clone());
        let objects = layer::layer()
            .event_format(Json)
            .with_writer(move || to_json.clone());
        let subscriber = tracing_subscriber::registry().with(plain).with(objects);
        with_default(subscriber, say);
        let read = |lines: &Lines| String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let json = read(&json);
        assert_eq!(json.matches('\n').count(), 1, "{json}");
        (
            read(&text).trim().to_owned(),
            serde_json::from_str(&json).unwrap(),
        )
    }

    #[test]
    fn text_and_json_say_the_same() {
        for (say, text, fields) in [
            (
                (|| info!(size = 5_u64, ok = true, added_ms = 0.3, "message")) as fn(),
                "INFO message size=5 ok=true added_ms=0.3",
                json!({ "message": "message", "size": 5, "ok": true, "added_ms": 0.3 }),
            ),
            (
                || info!(filters = %Both, "message"),
                "INFO message filters=a=1",
                json!({ "filters": [{ "a": 1 }] }),
            ),
            (
                || info!(filters = %"a=1", "message"),
                "INFO message filters=a=1",
                json!({ "filters": "a=1" }),
            ),
            (
                || info!(other = %Both, "message"),
                "INFO message other=a=1",
                json!({ "other": "a=1" }),
            ),
            (
                || info!(by = "a \"b\" \\", none = None::<u64>, "line {}", 1),
                "INFO line 1 by=\"a \\\"b\\\" \\\\\"",
                json!({ "by": "a \"b\" \\", "message": "line 1", "level": "INFO" }),
            ),
        ] {
            let (said, object) = both(say);
            assert_eq!(said, text);
            for (name, value) in fields.as_object().unwrap() {
                assert_eq!(object.get(name), Some(value), "{name} in {object}");
            }
            assert!(object.get("none").is_none(), "{object}");
            assert!(object.get("timestamp").is_some(), "{object}");
        }
    }

    #[test]
    fn a_line_stays_a_line() {
        for text in ["a\nb", "\u{1b}[31m", "\0", "\u{202e}", "}\",{"] {
            let (_, object) = both(|| info!(value = text, "message"));
            assert_eq!(object["value"], text);
        }
    }
}
